"""The evaluate job: what it asks, how it numbers the corpus, and one real run against brute force."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytrec_eval

from pipeline.core import plugins, schema
from pipeline.core.config import validate
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder
from pipeline.evaluation import comparisons, outputs, report_data, scores
from pipeline.evaluation.bm25_tuning import EvaluatedBM25
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.corpus import Corpus, CorpusChunk
from pipeline.evaluation.dataset import EvalDataset, read_dataset
from pipeline.evaluation.evaluator import evaluate
from pipeline.evaluation.job import run
from pipeline.evaluation.model_card import hub_metric_type
from pipeline.evaluation.results import BM25, EvaluationPlan, Results
from pipeline.evaluation.similarity_samples import bm25_triplets, referenced_ids, sample_pairs
from pipeline.metrics.registry import parse_metric
from pipeline.metrics.retrieval import DEFAULT_METRICS, retrieval
from pipeline.metrics.trec_eval import gains
from pipeline.report.page import render
from pipeline.search.exact import TopK
from pipeline.storage.artifact import Artifact, begin
from pipeline.storage.vectors import l2_normalize

CITIES = ["Oslo", "Lima", "Rome", "Cairo", "Delhi", "Paris", "Tokyo", "Quito", "Accra", "Hanoi", "Sofia", "Dakar"]
FACTS = [
    ("How many people live in {}?", "The population of {} has grown to over a million inhabitants."),
    ("What is the weather like in {}?", "{} has mild winters, and its summers are warm with little rain."),
    ("How do I get from the airport to the centre of {}?", "A train connects the airport of {} with the main station."),
    ("What should one eat in {}?", "Street stalls in {} sell grilled fish, rice and fresh bread."),
    ("Which museums are worth a visit in {}?", "The national gallery of {} shows paintings of five centuries."),
]


def rows(name, items):
    """Rows of a table, from dictionaries; what they leave out is null."""
    fields = schema.TABLES[name]
    return pa.table({f.name: pa.array([item.get(f.name) for item in items], f.type) for f in fields}, schema=fields)


def facts():
    return [(city, number, question, answer) for city in CITIES for number, (question, answer) in enumerate(FACTS)]


@pytest.fixture
def data(tmp_path):
    """A finished build artifact: 60 documents in three files, 24 test queries, triplets and graded pairs."""
    draft = begin(str(tmp_path / "run" / "data"), "build", {}, {"made": "here"}, overwrite=False)
    docs = [{"doc_id": f"{c}-{n}", "text": answer.format(c), "source": "s"} for c, n, _, answer in facts()]
    docs[-1]["text"] = docs[0]["text"]  # a duplicate
    for part, (start, stop) in enumerate([(0, 7), (7, 50), (50, 60)]):
        draft.write("corpus", rows("corpus", docs[start:stop]), part)
    asked = [f for f in facts() if f[1] < 2]
    queries = [
        {"query_id": f"q {c} {n}", "text": question.format(c), "source": "s", "split": "test"}
        for c, n, question, _ in asked
    ]
    draft.write("queries", rows("queries", [*queries, {"query_id": "idle", "text": "Why?", "split": "test"}]))
    qrels = [{"query_id": f"q {c} {n}", "doc_id": f"{c}-{n}", "relevance": 2, "split": "test"} for c, n, _, _ in asked]
    qrels += [{"query_id": f"q {c} 0", "doc_id": f"{c}-1", "relevance": 1, "split": "test"} for c in CITIES]
    qrels += [{"query_id": "q Oslo 0", "doc_id": "gone", "relevance": 1, "split": "test"}]
    draft.write("qrels", rows("qrels", qrels))
    triplets = [
        {
            "anchor_id": f"q {c} {n}",
            "anchor": question.format(c),
            "positive_id": f"{c}-{n}",
            "positive": answer.format(c),
            "split": "test",
            "negatives": [
                {"doc_id": f"{c}-{(n + 1) % 5}", "text": FACTS[(n + 1) % 5][1].format(c)},
                {"doc_id": None, "text": f"{c} is written with {len(c)} letters."},
            ],
        }
        for c, n, question, answer in asked
    ]
    draft.write("triplets", rows("triplets", [*triplets, {"anchor": "x", "positive": "y", "split": "test"}]))
    labelled = [
        {
            "left": FACTS[n][1].format(a),
            "right": FACTS[m][1].format(b),
            "score": float(a == b) + (n == m),
            "split": "test",
        }
        for a, b in zip(CITIES, [*CITIES[:6], *CITIES[:6]], strict=True)
        for n, m in [(0, 0), (0, 3), (2, 4)]
    ]
    draft.write("labelled", rows("labelled", labelled))
    return draft.finish(["corpus", "queries", "qrels", "triplets", "labelled"])


def config_for(data, minilm, **settings):
    models = {
        name: {"model": minilm, "layers": layers, "dtype": "float32"} for name, layers in (("base", 1), ("tuned", 2))
    }
    given = {"run": str(Path(data.path).parent), "models": models, "max_triplets": 100, **settings}
    return validate(EvaluateConfig, given)


def test_questions_of_a_split(data):
    asked = read_dataset(data, "test", None, 100)
    assert len(asked.query_ids) == 24
    assert asked.texts[:2] == ["How many people live in Oslo?", "What is the weather like in Oslo?"]
    assert asked.qrels["q Oslo 0"] == {"Oslo-0": 2, "Oslo-1": 1, "gone": 1}
    assert len(asked.triplets) == 24
    assert [t.anchor for t in asked.triplets] == list(range(24))
    assert asked.skipped == {"query_without_relevant_document": 1, "triplet_without_negative": 1}
    left, right, gold = asked.scored_pairs[0]
    assert (asked.texts[left], asked.texts[right], gold) == (FACTS[0][1].format("Oslo"),) * 2 + (2.0,)


def test_questions_up_to_a_number(data):
    asked = read_dataset(data, "test", 5, 3)
    assert asked.query_ids == ["q Oslo 0", "q Oslo 1", "q Lima 0", "q Lima 1", "q Rome 0"]
    assert asked.skipped["query_beyond_max_queries"] == 19
    assert len(asked.triplets) == 3


def test_a_split_that_asks_nothing_is_refused(data):
    with pytest.raises(UserError, match=r"split .dev.*has no queries.*holds test"):
        read_dataset(data, "dev", None, 10)


@pytest.mark.parametrize("size", [1, 10, 43, 1000])
def test_corpus_pieces_cover_every_row_once(data, size):
    corpus = Corpus(data)
    pieces = corpus.chunks(rows=size)
    texts = [text for piece in pieces for text in CorpusChunk.unpack(piece.packed()).read().to_pylist()]
    assert texts == data.read("corpus")["text"].to_pylist()
    assert [p.first_row for p in pieces] == np.cumsum([0, *(p.rows for p in pieces[:-1])]).tolist()


def test_corpus_finds_and_takes(data):
    corpus = Corpus(data)
    assert len(corpus) == 60
    assert corpus.find(["Dakar-4", "Oslo-0", "gone"]) == {"Oslo-0": 0, "Dakar-4": 59}
    assert corpus.take([59, 6, 7, 6], ["doc_id"]) == {
        6: {"doc_id": "Lima-1"},
        7: {"doc_id": "Lima-2"},
        59: {"doc_id": "Dakar-4"},
    }
    assert corpus.take([], ["doc_id"]) == {}
    assert corpus.order() == Corpus(data).order()


def test_probes_find_documents_by_id_and_keep_the_others_by_text(data):
    asked = read_dataset(data, "test", None, 100)
    held = Corpus(data).find(referenced_ids(asked))
    pairs = sample_pairs(asked, held, 60, seed=0)
    text, row = pairs.arrays()
    assert row[pairs.groups["positive"]].tolist() == [held[t.positive[0]] for t in asked.triplets]
    assert (row[pairs.groups["negative"]][1::2] < 0).all() and len(pairs.extra_documents) == len(CITIES)
    assert pairs.extra_documents[-1 - row[pairs.groups["negative"]][1]] == "Oslo is written with 4 letters."
    random = pairs.groups["random"]
    right = [{held[d] for d in asked.qrels[asked.query_ids[t]] if d in held} for t in text[random]]
    assert all(row not in rows for row, rows in zip(row[random].tolist(), right, strict=True))


def test_lexical_triplets_take_what_is_not_relevant():
    asked = EvalDataset(["a", "b"], ["A", "B"], {"a": {"x": 1, "y": 0}, "b": {"gone": 1}})
    made = bm25_triplets(asked, {"a": ["x", "y", "z"], "b": ["x"]}, {"x": 0, "y": 1, "z": 2})
    assert [(t.anchor, t.positive[0], [doc for doc, _ in t.negatives]) for t in made] == [(0, "x", ["y", "z"])]


def test_bm25_alone_and_its_triplets_where_the_data_has_few(data, ray_session):
    plan = EvaluationPlan(
        models={}, bm25=EvaluatedBM25(), metrics=["ndcg@10", "hit@1"], vectors="none", actors=None, seed=0
    )
    own = evaluate(data, read_dataset(data, "test", None, 100), plan)
    assert "are the data's" in own.triplet_source and len(own.dataset.triplets) == 24
    few = evaluate(data, read_dataset(data, "test", None, 5), plan)
    assert few.dataset.skipped["triplet_of_too_few"] == 5
    assert "BM25's best documents" in few.triplet_source
    for triplet in few.dataset.triplets:
        grades = few.dataset.qrels[few.dataset.query_ids[triplet.anchor]]
        assert grades[triplet.positive[0]] > 0
        assert all(grades.get(doc, 0) <= 0 for doc, _ in triplet.negatives)
    assert few.pairs.extra_documents == [] and set(few.docs) == {BM25}
    wanted = retrieval(few.docs[BM25], few.dataset.qrels, plan.metrics)
    assert few.scores[BM25]["ndcg@10"] == pytest.approx(np.mean(list(wanted["ndcg@10"].values())))


OWN_METRIC = """
def first_rank(rankings, qrels, k):
    ranks = {}
    for query, grades in qrels.items():
        hits = [rank for rank, doc in enumerate(rankings.get(query, ())[:k], start=1) if grades.get(doc, 0) > 0]
        ranks[query] = hits[0] if hits else 1 + (k or 1000)
    return ranks

first_rank.label = "First rank"
first_rank.higher_is_better = False
"""


@pytest.fixture
def own_metric(tmp_path, monkeypatch):
    """A metric in a module beside a recipe, for which a lower value is better."""
    name = f"own_metric_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN_METRIC, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_folders", [])
    plugins.look_in(str(tmp_path))
    return f"{name}:first_rank@20"


def test_a_metric_of_the_users_own_goes_to_every_output(data, own_metric, ray_session):
    """With two rankings of the same queries: values, tests in the right direction, metrics.json, page and card."""
    config = validate(EvaluateConfig, {"run": str(Path(data.path).parent), "metrics": [own_metric, "ndcg@10"]})
    plan = EvaluationPlan(models={}, bm25=EvaluatedBM25(), metrics=config.metrics, vectors="none", actors=None, seed=0)
    results = evaluate(data, read_dataset(data, "test", None, 100), plan)
    assert results.scores[BM25][own_metric] >= 1.0 and results.scores[BM25]["ci95"][own_metric]
    worse = {query: value + 1 for query, value in results.values[BM25][own_metric].items()}
    results.values["worse"] = {own_metric: worse}
    results.scores["worse"] = scores.mean_scores(results.values["worse"], 0)
    results.docs["worse"], results.best["worse"] = results.docs[BM25], results.best[BM25]
    (test,) = comparisons.compare(results.values, [("worse", BM25)], seed=0)
    assert (test["won"], test["lost"]) == (0, 24), "a higher rank is worse"
    settings = {"run": "runs/own", "split": "test", "baseline": BM25, "metrics": config.metrics, "seed": 0}
    report = report_data.build_report_data(results, data, [test], [], [], **settings, commands=[])
    assert report.best(own_metric) == BM25 and len(report.lost) == report_data.EXAMPLES and not report.won
    page = render(report)
    assert "First rank@20" in page and "Best of all is bm25, with First rank@20" in page
    assert "worse reaches First rank@20" in page
    assert hub_metric_type(own_metric) == "first_rank_at_20"
    table = outputs.unit_tables(results)["per_query"]
    assert own_metric in table.column_names


def test_comparison_names_what_differs():
    rng = np.random.default_rng(0)
    base = {f"q{i}": float(v) for i, v in enumerate(rng.random(60))}
    tuned = {query: value + 0.1 for query, value in base.items()}
    noise = {query: value + float(rng.normal(0, 0.1)) for query, value in base.items()}
    values = {"base": {"map": base}, "tuned": {"map": tuned}, "same": {"map": noise}}
    found = comparisons.compare(values, comparisons.model_pairs(values, "base"), seed=0)
    assert next((test["model"], test["won"], test["lost"]) for test in found) == ("tuned", 60, 0)
    assert found[0]["difference"] == pytest.approx(0.1)
    assert found[0]["p_value"] == 1 / 10_001 and found[0]["p_holm"] == 2 / 10_001
    assert found[1]["p_value"] > 0.05
    both = {name: {"map": values, "ndcg@10": values} for name, values in (("base", base), ("tuned", tuned))}
    tested = comparisons.compare(both, [("tuned", "base")], seed=0)
    assert [test["p_holm"] for test in tested] == [1 / 10_001] * 2
    every = comparisons.compare(values, comparisons.model_pairs(values, "base", all_pairs=True), seed=0)
    assert [(test["model"], test["baseline"]) for test in every] == [
        ("tuned", "base"),
        ("same", "base"),
        ("same", "tuned"),
    ]
    assert every[0]["p_holm"] == 3 / 10_001, "Holm takes all three as one family"


def test_trec_scores_fall_where_scores_tie():
    scores = np.array([[0.5, 0.5, 0.5, 0.1]], np.float32)
    measured = Results(
        None,
        EvalDataset(["q"]),
        best={"m": TopK(scores, np.arange(4)[None])},
        docs={"m": {"q": ["a", "z", "b", "c d"]}},
    )
    run_lines = outputs.trec_lines(measured, "m").splitlines()
    assert [line.split()[2] for line in run_lines] == ["a", "z", "b", "c_d"]
    found = [np.float32(line.split()[4]) for line in run_lines]
    assert all(a > b for a, b in itertools.pairwise(found))
    assert found[0] == np.float32(0.5) and found[3] == np.float32(0.1)


def test_queries_as_csv_hold_no_formula():
    values = {"m": {"map": {"q1": 0.25, "q2": 1.0}}}
    results = Results(None, EvalDataset(["q1", "q2"], ["=HYPERLINK(1)", 'a "b", c']), values=values)
    table = outputs.queries_csv(results, ["map"])
    assert table.splitlines()[1:] == ["q1,'=HYPERLINK(1),0.25", 'q2,"a ""b"", c",1.0']
    assert outputs.queries_csv(Results(None, EvalDataset()), ["map"]) == ""


def test_subject_of_the_headline():
    assert report_data.headline_model(["bm25", "base", "tuned", "other"], "base") == "tuned"
    assert report_data.headline_model(["bm25", "base", "other"], "base") == "other"
    assert report_data.headline_model(["base"], "base") == "base"


def test_learning_curves_are_optional_and_checked(tmp_path):
    assert outputs.read_curves(str(tmp_path / "none")) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n\n{"step": 2')
    with pytest.raises(UserError, match="line 3 is not JSON"):
        outputs.read_curves(str(tmp_path))


def test_settings_are_checked():
    with pytest.raises(UserError, match="unknown metric 'precision@3'"):
        validate(EvaluateConfig, {"metrics": ["precision@3"]})
    with pytest.raises(UserError, match="model name 'a/b'"):
        validate(EvaluateConfig, {"models": {"a/b": {}}})
    with pytest.raises(UserError, match="baseline 'old' is not among the models; choose from bm25, base, tuned"):
        validate(EvaluateConfig, {"baseline": "old"}).resolved()


def test_default_models(tmp_path):
    given = {"run": str(tmp_path), "encoder": {"layers": 2, "max_length": 64}}
    models = validate(EvaluateConfig, given).resolved().models
    assert {name: model.layers for name, model in models.items()} == {"base": None, "start": 2, "tuned": None}
    assert models["base"].max_length == 64, "compared at the length of the training, whole"
    assert models["tuned"].model == str(tmp_path / "model")
    whole = validate(EvaluateConfig, {"run": str(tmp_path), "encoder": {"layers": 6}}).resolved()
    assert list(whole.models) == ["base", "tuned"], "six of six layers is the whole model"
    short = validate(EvaluateConfig, {"run": str(tmp_path), "encoder": {"truncate_dim": 64}}).resolved()
    assert [(name, model.truncate_dim) for name, model in short.models.items()] == [
        *[("base", None), ("start", 64), ("tuned", None)]
    ]
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "config.json").write_text('{"encoder": {"model": "began/with", "max_length": 99}}')
    models = validate(EvaluateConfig, {"run": str(tmp_path)}).resolved().models
    assert (models["base"].model, models["base"].max_length) == ("began/with", 99)


def test_further_models_stand_beside_base_and_tuned(tmp_path):
    given = {"run": str(tmp_path), "models": {"other": "a/path", "third": {"model": "b", "max_length": 64}}}
    alone = validate(EvaluateConfig, given).resolved()
    assert list(alone.models) == ["other", "third"] and alone.baseline == "other"
    assert (alone.models["other"].model, alone.models["third"].max_length) == ("a/path", 64)
    (tmp_path / "model").mkdir()
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "config.json").write_text('{"encoder": {"model": "began/with"}}')
    beside = validate(EvaluateConfig, given).resolved()
    assert list(beside.models) == ["base", "tuned", "other", "third"] and beside.baseline == "base"
    over = validate(EvaluateConfig, {**given, "models": {"base": "another/base"}}).resolved()
    assert over.models["base"].model == "another/base" and list(over.models) == ["base", "tuned"]


def test_errors_that_a_user_can_fix(data, tmp_path, minilm):
    with pytest.raises(UserError, match=r"no such directory; run `tripletail build` first"):
        run(validate(EvaluateConfig, {"run": str(tmp_path / "nowhere")}))
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    (hollow / "config.json").write_text("{}")
    (hollow / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="has no tokenizer"):
        run(config_for(data, minilm, models={"base": {"model": str(hollow)}}))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run(config_for(data, minilm, out=str(tmp_path / "file" / "report")))


def by_hand(data, model, queries):
    """Cosine of every query with every document [Q, N], by one process and one matrix."""
    encoder = Encoder.load(model)
    documents = l2_normalize(encoder.encode(data.read("corpus")["text"].to_pylist(), "document"))
    return l2_normalize(encoder.encode(queries, "query")) @ documents.T


@pytest.mark.ray
def test_a_whole_run(data, minilm, ray_session, capsys, tmp_path, own_metric):
    config = config_for(data, minilm, num_actors=2)
    done = run(config)
    found = json.loads(Path(done.path, "metrics.json").read_text())
    assert (found["queries"], found["documents"], list(found["models"])) == (24, 60, ["bm25", "base", "tuned"])
    assert found["skipped"]["relevant_document_not_in_corpus"] == 1
    assert found["models"]["bm25"]["hit@1"] < 1.0

    asked = read_dataset(data, "test", None, 100)
    rows_of = {doc: row for row, doc in enumerate(data.read("corpus")["doc_id"].to_pylist())}
    for name in ("base", "tuned"):
        cosines = by_hand(data, config.models[name], asked.texts[:24])
        table = pq.read_table(Path(done.path, "runs", f"{name}.parquet"))
        ranked = np.array(table["doc_id"].to_pylist()).reshape(24, 60)
        scores = table["score"].to_numpy().reshape(24, 60)
        assert table["rank"].to_pylist() == list(range(1, 61)) * 24
        held = np.vectorize(rows_of.get)(ranked)
        assert (np.sort(held, axis=1) == np.arange(60)).all() and (np.diff(scores, axis=1) <= 0).all()
        np.testing.assert_allclose(scores, np.take_along_axis(cosines, held, axis=1), atol=2e-6)
        wanted = retrieval(dict(zip(asked.query_ids, ranked.tolist(), strict=True)), asked.qrels)
        for metric, values in wanted.items():
            assert found["models"][name][metric] == pytest.approx(np.mean(list(values.values())), abs=1e-9)
            low, high = found["models"][name]["ci95"][metric]
            assert low <= found["models"][name][metric] <= high
        assert 0 <= found["models"][name]["triplet_accuracy"] <= 1
        cut = found["models"][name]["truncation"]
        assert cut["document"]["texts"] == 60 and cut["query"]["cut_texts"] == 0 < cut["query"]["texts"]
        assert -1 <= found["models"][name]["spearman"] <= 1
    assert {(t["model"], t["baseline"]) for t in found["comparisons"]} == {("bm25", "base"), ("tuned", "base")}
    assert BM25 not in {m for m, f in found["models"].items() if "spearman" in f}

    judged = {q.replace(" ", "_"): gains(grades) for q, grades in asked.qrels.items()}
    for name in found["models"]:
        with Path(done.path, f"{name}.trec").open() as file:
            trec = pytrec_eval.parse_run(file)
        theirs = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(trec)
        mean = sum(value["ndcg_cut_10"] for value in theirs.values()) / 24
        assert found["models"][name]["ndcg@10"] == pytest.approx(mean)

    assert len(Path(done.path, "queries.csv").read_text(encoding="utf-8-sig").splitlines()) == 1 + 24
    assert "tuned" in capsys.readouterr().out
    again = run(config)
    heard = capsys.readouterr()
    assert "nothing to do" in heard.err and "tuned" in heard.out
    assert again.manifest.fingerprint == done.manifest.fingerprint

    page = Path(done.path, "report.html").read_text()
    assert "unseen queries" in page and "tripletail evaluate" in page
    with pytest.raises(UserError, match="max_queries"):
        run(config_for(data, minilm, num_actors=2, max_queries=5))

    stored = write_vectors(data, config.models["tuned"], tmp_path / "vectors")
    metrics = [*DEFAULT_METRICS, own_metric]
    second = {"num_actors": 1, "vectors": stored, "out": str(tmp_path / "second"), "metrics": metrics}
    one = run(config_for(data, minilm, **second))
    heard = capsys.readouterr().err
    assert "base: embeds" in heard and "tuned: ranks stored vectors" in heard
    other = json.loads(Path(one.path, "metrics.json").read_text())
    for name in ("base", "tuned"):
        for metric in ("ndcg@10", "map", "recall@100", "triplet_accuracy", "spearman"):
            assert other["models"][name][metric] == pytest.approx(found["models"][name][metric], abs=1e-6)
        assert 1.0 <= other["models"][name][own_metric] <= 21.0
    assert own_metric in {test["metric"] for test in other["comparisons"]}
    assert "First rank@20" in Path(one.path, "report.html").read_text()
    source = Path(parse_metric(own_metric).metric.source_file)
    source.write_text(source.read_text() + "\n# changed\n")
    with pytest.raises(UserError, match="first_rank@20"):
        run(config_for(data, minilm, **second))


def spread(data, folder, files):
    """The same artifact with 600 documents, dealt to so many files."""
    draft = begin(str(folder), "build", {}, {"made": "here"}, overwrite=False)
    docs = data.read("corpus").to_pylist()
    docs += [{**docs[n % 59], "doc_id": f"more {n}", "category": docs[n % 59]["text"][:3]} for n in range(540)]
    docs = [{**doc, "text": f"{doc['text']} {'It is so. ' * (n % 7)}"} for n, doc in enumerate(docs)]
    for part, chunk in enumerate(np.array_split(np.arange(600), files)):
        draft.write("corpus", rows("corpus", [docs[n] for n in chunk]), part)
    for name in ("queries", "qrels", "triplets", "labelled"):
        draft.write(name, data.read(name))
    return draft.finish(["corpus", "queries", "qrels", "triplets", "labelled"])


@pytest.mark.ray
def test_the_same_file_for_any_number_of_shards_and_actors(data, minilm, ray_session, tmp_path):
    found, settings = [], {"variants": {"dims": [96], "dtypes": ["int8", "binary"]}, "bm25": False}
    models = {"only": {"model": minilm, "layers": 1, "dtype": "float32", "max_length": 48}}
    for files, actors in ((1, 1), (7, 3)):
        held = spread(data, tmp_path / f"in {files}" / "data", files)
        done = run(config_for(held, minilm, models=models, num_actors=actors, **settings))
        names = ["metrics.json", "only.trec", *(f"{one}/part-00000.parquet" for one in outputs.UNIT_TABLES)]
        found.append({name: Path(done.path, name).read_bytes() for name in names})
        assert len(Corpus(held).chunks()) == 3
    one, other = found
    for name in one:
        assert one[name] == other[name], f"{name} depends on the shards"
    told = json.loads(one["metrics.json"])
    assert {(v["dim"], v["dtype"]) for v in told["variants"]} == {
        (384, "int8"),
        (96, "int8"),
        (384, "binary"),
        (96, "binary"),
    }
    only = told["models"]["only"]
    for name in ("ndcg@10", "triplet_accuracy", "spearman", "pearson", "v_measure"):
        low, high = only["ci95"][name]
        assert low <= only[name] <= high, name
    per_query = pq.read_table(Path(done.path, "per_query"))
    assert set(per_query["model"].to_pylist()) == {"only", *(f"only:{v['dim']}:{v['dtype']}" for v in told["variants"])}
    pairs = pq.read_table(Path(done.path, "per_pair"))
    assert pairs.column_names == ["model", "left", "right", "score", "cosine"] and len(pairs) == told["labelled_pairs"]
    page = Path(done.path, "report.html").read_text()
    assert "Smaller vectors" in page and "Map of the corpus" in page


def guard_data(folder):
    """Another corpus: four questions of split `other`, one answer each, and graded pairs."""
    draft = begin(str(folder), "build", {}, {"made": "for a guard"}, overwrite=False)
    texts = [
        "Bread rises when yeast ferments.",
        "Glass is made of sand.",
        "Cheese is made of milk.",
        "Ink dries in air.",
    ]
    asked = ["What makes bread rise?", "What is glass made of?", "What is cheese made of?", "When does ink dry?"]
    draft.write("corpus", rows("corpus", [{"doc_id": f"d{n}", "text": text} for n, text in enumerate(texts)]))
    queries = [{"query_id": f"q{n}", "text": text, "split": "other"} for n, text in enumerate(asked)]
    draft.write("queries", rows("queries", queries))
    judged = [{"query_id": f"q{n}", "doc_id": f"d{n}", "relevance": 1, "split": "other"} for n in range(4)]
    draft.write("qrels", rows("qrels", judged))
    pairs = [(asked[0], texts[0], 3.0), (asked[1], texts[2], 1.0), (asked[1], texts[1], 2.5)]
    labelled = [dict(zip(("left", "right", "score"), one, strict=True), split="other") for one in pairs]
    draft.write("labelled", rows("labelled", labelled))
    return draft.finish(["corpus", "queries", "qrels", "labelled"])


@pytest.mark.ray
def test_guards_are_measured_beside(data, minilm, ray_session, capsys, tmp_path):
    """A guard has just the figures that it has as a run of its own, goes to every output and is an input."""
    guard = guard_data(tmp_path / "alone" / "data")
    watched = {"name": "kitchen", "data": guard.path, "split": "other"}
    done = run(config_for(data, minilm, num_actors=1, guards=[watched]))
    assert "guard kitchen, split other, 4 queries" in capsys.readouterr().out
    found = json.loads(Path(done.path, "metrics.json").read_text())
    alone = run(config_for(guard, minilm, num_actors=1, split="other"))
    wanted = json.loads(Path(alone.path, "metrics.json").read_text())
    (kept,) = found["guards"]
    assert (kept["name"], kept["split"], kept["queries"], kept["documents"]) == ("kitchen", "other", 4, 4)
    assert kept["comparisons"] == wanted["comparisons"]
    for model, told in wanted["models"].items():
        for name in {"ndcg@10", "mrr@10", "hit@1", "spearman"} & set(told):
            assert kept["models"][model][name] == told[name]
    assert found["guards"] != [] and wanted["guards"] == []
    assert found["queries"] == 24, "the run's own figures are as ever"
    page = Path(done.path, "report.html").read_text()
    assert "What it kept" in page and "On kitchen nDCG@10 is" in page
    assert "What it kept" not in Path(alone.path, "report.html").read_text()
    assert done.manifest.inputs["guard kitchen"] == guard.manifest.fingerprint
    capsys.readouterr()
    run(config_for(data, minilm, num_actors=1, guards=[watched]))
    heard = capsys.readouterr()
    assert "nothing to do" in heard.err and "guard kitchen, split other, 4 queries" in heard.out


def test_a_guard_that_cannot_be_measured_is_named_before_any_work(data, minilm, tmp_path):
    guard = {"name": "g", "data": str(tmp_path / "none")}
    with pytest.raises(UserError, match=r"none: no such directory; run `tripletail build` first"):
        run(config_for(data, minilm, guards=[guard]))
    with pytest.raises(UserError, match=r"split 'dev'.*the artifact holds other"):
        run(config_for(data, minilm, guards=[{"name": "g", "data": guard_data(tmp_path / "guard").path}]))
    with pytest.raises(UserError, match=r"guards.*every guard needs a name of its own"):
        config_for(data, minilm, guards=[guard, guard])
    with pytest.raises(UserError, match="use letters, digits"):
        config_for(data, minilm, guards=[{**guard, "name": "a b"}])
    with pytest.raises(UserError, match="give either `data`"):
        config_for(data, minilm, guards=[{**guard, "recipe": "r.yaml"}])
    assert not Path(tmp_path / "run" / "report").exists()


def write_vectors(data, model, folder):
    """Vectors of the corpus as the embed job leaves them."""
    encoder = Encoder.load(model)
    table = data.read("corpus")
    vectors = encoder.encode(table["text"].to_pylist(), "document")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    draft = begin(str(folder), "embed", {}, {"data": data.manifest.fingerprint}, overwrite=False)
    draft.write("vectors", pa.table({"id": table["doc_id"], "vector": column}))
    draft.finish(["vectors"], encoder=encoder.identity, role="document")
    return str(folder)


@pytest.mark.ray
def test_a_split_with_graded_pairs_alone(tmp_path, minilm, ray_session):
    draft = begin(str(tmp_path / "data"), "build", {}, {}, overwrite=False)
    pairs = [("a cat", "a kitten", 1.0), ("a cat", "a lorry", 0.0), ("rain", "it rains", 1.0), ("rain", "a sofa", 0.0)]
    draft.write(
        "labelled",
        rows("labelled", [dict(zip(("left", "right", "score"), p, strict=True), split="test") for p in pairs]),
    )
    data = draft.finish(["labelled"])
    done = run(config_for(data, minilm, models={"base": {"model": minilm, "layers": 2}}))
    found = json.loads(Path(done.path, "metrics.json").read_text())
    assert found["queries"] == 0
    assert found["models"]["base"]["average_precision"] == 1.0
    assert "Spearman" in Path(done.path, "report.html").read_text()
    assert Artifact.open(done.path, "evaluate").manifest.fingerprint == done.manifest.fingerprint
