"""The data of a report with every part of the page filled, and texts that try to break out of it."""

import numpy as np

from pipeline.evaluation.report_data import metric_info
from pipeline.report.data import DocumentMap, Example, Hit, QueryGroup, ReportData, RetentionResult

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/a.png onerror=alert(1)> & "quoted"'


def scores(ndcg, hit):
    means = {"ndcg@10": ndcg, "hit@1": hit, "triplet_accuracy": 0.5, "mean_margin": -0.03}
    return means | {"ci95": {name: [value - 0.02, value + 0.02] for name, value in means.items()}}


def comparison(difference, p, model="tuned", baseline="base", metric="ndcg@10"):
    return {
        "model": model,
        "baseline": baseline,
        "metric": metric,
        "difference": difference,
        "ci95": [difference - 0.01, difference + 0.01],
        "won": 700,
        "lost": 109,
        "p_value": p,
        "p_holm": p,
    }


def retention(before, after, p):
    test = comparison(after - before, p)
    models = {"bm25": scores(0.6, 0.5), "base": scores(before, 0.43), "tuned": scores(after, 0.61)}
    return RetentionResult(HOSTILE, "dev", 246, 2890, models, [test, {**test, "model": "bm25"}])


def variant(dim, dtype, ndcg):
    size = dim * {"float32": 32, "int8": 8, "binary": 1}[dtype] // 8
    return {"model": "tuned", "dim": dim, "dtype": dtype, "bytes": size, **scores(ndcg, 0.5), "comparisons": []}


def document_map(rng, spread):
    names = ["Audio", "Kitchen", "Sports & Outdoors", "Tools", "Pets", "Home", HOSTILE, "other"]
    centres = rng.random((8, 2))
    which = rng.integers(0, 8, 400)
    points = np.clip(centres[which] + rng.normal(0, spread, (400, 2)), 0, 1).astype(np.float32)
    return DocumentMap(points, [names[n] for n in which], [f"{HOSTILE} {n}" for n in range(400)])


def report_data():
    """Everything that a page can show, but for guards and a second baseline."""
    rng = np.random.default_rng(0)
    hits = [Hit(1, HOSTILE, False), Hit(2, "plain", True)]
    example = Example(HOSTILE, 0.0, 1.0, {"base": hits, "tuned": hits[::-1]}, HOSTILE)
    curves = [{"step": s, "epoch": s / 10, "loss": 2.0 / s, "lr": 1e-4, "pairs_per_s": 9.0} for s in range(1, 60)]
    curves += [{"step": s, "ndcg@10": 0.3 + s / 1000, HOSTILE: 0.2} for s in (20, 40, 59)]
    groups = {name: rng.normal(mean, 0.1, 300).astype(np.float32) for name, mean in (("relevant", 0.7), ("random", 0))}
    sizes = {"float32": (0.5, 0.48, 0.44), "int8": (0.509, 0.498, 0.476, 0.43), "binary": (0.49, 0.46, 0.41, 0.33)}
    dims = {"float32": (192, 96, 48), "int8": (384, 192, 96, 48), "binary": (384, 192, 96, 48)}
    return ReportData(
        run=HOSTILE,
        split="test",
        queries=1200,
        documents=9000,
        baseline="base",
        subject="tuned",
        metrics=["ndcg@10", "hit@1"],
        metric_info=metric_info(["ndcg@10", "hit@1"], curves),
        scores={"base": scores(0.401, 0.43), "tuned": scores(0.512, 0.61) | {"dim": 384}},
        comparisons=[comparison(0.111, 0.0002), comparison(0.18, 0.0002, metric="hit@1")],
        triplet_source=HOSTILE,
        curves=curves,
        similarities={"base": groups, "tuned": groups},
        won=[example],
        lost=[example],
        skipped={"query_without_relevant_document": 3},
        tables={"corpus": 9000},
        dropped={"empty_text": 4},
        data={"data": HOSTILE},
        environment={"torch": "2"},
        commands=["tripletail train --config runs/a/training/config.json", f"python '{HOSTILE}'"],
        variants=[variant(d, t, v) for t, widths in dims.items() for d, v in zip(widths, sizes[t], strict=True)],
        document_maps={"base": document_map(rng, 0.2), "tuned": document_map(rng, 0.05)},
        document_map_method="t-SNE",
        query_groups=[
            QueryGroup("characters of the query", "up to 20", 700, {"base": 0.3, "tuned": 0.5}),
            QueryGroup("characters of the query", "over 20", 500, {"base": 0.5, "tuned": 0.4}),
            QueryGroup("category of the document", HOSTILE, 9, {"base": 0.1, "tuned": 0.2}),
        ],
        unfound=[HOSTILE] * 7,
    )
