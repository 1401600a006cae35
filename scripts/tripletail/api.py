"""The jobs and tools as functions: the same settings and the same code as the commands.

A function takes a recipe (a path, the name of an installed recipe, or settings), and settings as keywords over it.
Mistakes are UserError. Jobs run on the Ray session that the caller has started, else on a local one of their own, which
stays for the next job; nothing here shuts a session down.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core import config
from pipeline.core.config import JobConfig
from pipeline.core.errors import UserError
from pipeline.encoder.encoder import Encoder, EncoderConfig
from pipeline.inspection.survey import Survey
from pipeline.report.run_comparison import RunComparison
from pipeline.search.query import Searcher
from pipeline.serving.config import ServeConfig
from pipeline.serving.server import Server
from pipeline.storage.artifact import Artifact
from pipeline.stores.job import Published

from . import recipe as recipes
from .preflight.ahead import TRAININGS

Recipe = str | Path | Mapping[str, Any] | JobConfig
Where = str | Path | Artifact


@contextmanager
def user_errors(job: str = "") -> Iterator[None]:
    """Raise what a user can fix as UserError, also where Ray wrapped it; other exceptions pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = config.user_cause(error)
        if cause is None:
            raise
        raise UserError(cause) from error


def _run(name: str, recipe: Recipe | None, settings: dict[str, Any]) -> Artifact:
    with user_errors():
        step = recipes.resolve(name, _settings(recipe), settings)
        return _as_artifact(step, step.run(step.config))


def _as_artifact(step: recipes.Step, result: Any) -> Artifact:
    """The artifact that a job left; a training returns the directory of its model, and its artifact is the log."""
    artifact: Artifact = Artifact.open(_training_log(step.config), step.job) if step.job in TRAININGS else result
    return artifact


def _training_log(settings: Any) -> str:
    return str(settings.paths["log"])


def _settings(recipe: Recipe | None) -> config.Recipe | None:
    """A recipe as the configuration takes it."""
    if isinstance(recipe, JobConfig):
        return dict(recipe)
    return recipes.find_recipe(str(recipe)) if isinstance(recipe, str | Path) else recipe


def _path(where: Where) -> str:
    return where.path if isinstance(where, Artifact) else str(where)


def build(recipe: Recipe | None = None, /, **settings: Any) -> Artifact:
    """Turn raw corpora into an artifact of clean, split tables: corpus, queries, qrels, pairs, triplets, labelled.

    A source is settings as in a recipe, an object of a source's class, or rows in memory: a Ray or Hugging Face data
    set, an Arrow table, a pandas data frame or a list of dicts, alone (then they are pairs) or with what they are.

    Example:
        data = tripletail.build(
            run="runs/shop",
            sources=[
                {"type": "jsonl", "kind": "product", "path": "catalogue-*.jsonl.gz"},
                {"rows": [{"question": "...", "answer": "..."}], "kind": "qa", "name": "faq"},
            ],
        )
        data.pandas("pairs")
    """
    return _run("build", recipe, settings)


def generate(recipe: Recipe | None = None, /, **settings: Any) -> Artifact:
    """Make queries of the documents of `{run}/data` or of an input; the artifact is a source of a build.

    Example:
        made = tripletail.generate(input="articles.jsonl", out="runs/articles/generated", generator={"type": "rules"})
        tripletail.build(sources=[{"type": "generated", "path": made.path}, ...], run="runs/articles")
    """
    return _run("generate", recipe, settings)


def mine(recipe: Recipe | None = None, /, **settings: Any) -> Artifact:
    """Find hard negatives for the training pairs of `{run}/data`: tables candidates, triplets and tuples.

    Example:
        negatives = tripletail.mine(run="runs/shop", encoder={"max_length": 128}, rule={"num_negatives": 4})
        negatives.dataset("tuples").take(3)
    """
    return _run("mine", recipe, settings)


def train(recipe: Recipe | None = None, /, **settings: Any) -> Artifact:
    """Fine-tune an encoder on `{run}/data`; the artifact's `notes` say where the model is and what validation measured.

    Example:
        training = tripletail.train(run="runs/shop", rows=["mined"], loss={"temperature": 0.02}, loop={"epochs": 3})
        encoder = tripletail.load_encoder(training)
    """
    return _run("train", recipe, settings)


def train_reranker(recipe: Recipe | None = None, /, **settings: Any) -> Artifact:
    """Train a reranker on the rows of `{run}/data` and `{run}/negatives`; the artifact's `notes` say where it is.

    Example:
        training = tripletail.train_reranker(run="runs/shop", cross_encoder={"max_length": 256}, loop={"epochs": 2})
        system = {"type": "rerank", "cross_encoder": {"model": training.manifest.notes["model"]}}
        tripletail.evaluate(run="runs/shop", systems=[system])
    """
    return _run("train_reranker", recipe, settings)


def embed(recipe: Recipe | None = None, /, **settings: Any) -> Artifact:
    """Embed a corpus, its queries, files of texts or rows in memory: table vectors, with ids and vectors [D].

    Example:
        vectors = tripletail.embed(run="runs/shop", input=[{"id": "a", "text": "wireless headphones"}])
        vectors.table("vectors")["vector"]
    """
    return _run("embed", recipe, settings)


def evaluate(recipe: Recipe | None = None, /, **settings: Any) -> Artifact:
    """Compare models over the whole corpus of `{run}/data` and write `report.html` and `metrics.json`.

    Example:
        report = tripletail.evaluate(run="runs/shop", split="test")
        print(report.path + "/report.html")
    """
    return _run("evaluate", recipe, settings)


def index(recipe: Recipe | None = None, /, **settings: Any) -> Artifact:
    """Build an index of the vectors in `{run}/vectors` and measure its recall against exact search.

    Example:
        tripletail.index(run="runs/shop", index={"type": "hnsw"})
    """
    return _run("index", recipe, settings)


def sweep(recipe: Recipe | None = None, /, **settings: Any) -> list[dict[str, Any]]:
    """Try many selection rules on the candidates in `{run}/negatives`; a record a rule, for `pandas.DataFrame`.

    Example:
        tripletail.sweep(run="runs/shop", grid={"max_percentage": [0.9, 0.95], "skip_top": [0, 5]})
    """
    from pipeline.mining import sweep as sweeping

    with user_errors():
        step = recipes.resolve("sweep", _settings(recipe), settings)
        assert isinstance(step.config, sweeping.SweepConfig)
        return sweeping.run(step.config)


def run(
    recipe: Recipe,
    /,
    *,
    first: str | None = None,
    last: str | None = None,
    run: str | Path | None = None,
    root: str | Path | None = None,
    overwrite: bool = False,
    strict: bool = False,
) -> dict[str, Artifact]:
    """Run the jobs of a recipe in order, from `first` to `last`, and return their artifacts by the name of the job.

    Example:
        artifacts = tripletail.run("quickstart", run="runs/quickstart", last="mine")
        artifacts["build"].pandas("pairs")
    """
    options = recipes.Options(
        first=first,
        last=last,
        run=str(run) if run else None,
        root=str(root) if root else None,
        overwrite=overwrite,
        strict=strict,
    )
    source = _settings(recipe)
    assert source is not None
    steps = recipes.plan(source, options, user_errors)
    recipes.preflight(steps, user_errors)
    results = recipes.execute(steps, user_errors)
    return {step.label: _as_artifact(step, result) for step, result in zip(steps, results, strict=True)}


def search(
    texts: str | list[str],
    index: Where | Searcher,
    top_k: int = 10,
    *,
    model: str | None = None,
    system: Any = "dense",
) -> Any:
    """Find the best documents of a text, in an artifact of index or embed: a list of hits, or one for each text.

    Opening an artifact loads its model; a `Searcher` keeps it for the next search. `model` says where the model is
    now, if not where it was when the vectors were made. `system` is dense, bm25, mix or rrf, or settings such as
    {"type": "mix", "weight": 0.7}; all but dense need an index that was built with `bm25`.

    Example:
        searcher = tripletail.Searcher("runs/shop/vectors")
        [hit.title for hit in tripletail.search("wireless headphones", searcher, top_k=3)]
    """
    with user_errors():
        searcher = index if isinstance(index, Searcher) else Searcher(_path(index), model, system)
        if isinstance(texts, str):
            return searcher(texts, top_k)
        return [searcher(text, top_k) for text in texts]


def serve(recipe: Recipe | None = None, /, **settings: Any) -> Server:
    """Serve vectors and search over HTTP, on loopback unless `host` says otherwise; answers until it is closed.

    Example:
        with tripletail.serve(run="runs/shop", port=0) as server:
            requests.post(f"{server.url}/search", json={"query": "wireless headphones", "top_k": 3}).json()
    """
    from pipeline.serving.job import start

    with user_errors():
        step = recipes.resolve("serve", _settings(recipe), settings)
        assert isinstance(step.config, ServeConfig)
        return start(step.config)


def publish(recipe: Recipe | None = None, /, **settings: Any) -> Published:
    """Make a database hold the vectors of `{run}/vectors` and no others; what differs is sent, what is gone deleted.

    Example:
        counts = tripletail.publish(run="runs/shop", store={"type": "lancedb", "uri": "runs/shop/lancedb"})
        counts.inserted, counts.updated, counts.unchanged, counts.deleted
    """
    from pipeline.stores import job as publishing

    with user_errors():
        step = recipes.resolve("publish", _settings(recipe), settings)
        assert isinstance(step.config, publishing.PublishConfig)
        return publishing.run(step.config)


def inspect(artifact: Where, rows: int = 3, seed: int = 0, *, html: str | Path | None = None) -> Survey:
    """Show what an artifact holds on the terminal: counts, drops, lengths, repetitions, splits, random rows.

    Returns the survey; with `html` also writes it as a page.

    Example:
        tripletail.inspect("runs/shop/data", html="data.html")
    """
    from rich.console import Console

    from pipeline.inspection.page import render
    from pipeline.inspection.survey import survey
    from pipeline.inspection.terminal import show

    with user_errors():
        content = survey(_path(artifact), rows, seed)
        show(content, Console())
        if html:
            Path(html).write_text(render(content), encoding="utf-8")
        return content


def compare(*runs: str | Path, baseline: str | None = None, metric: str | None = None) -> RunComparison:
    """Compare the models of finished runs on the queries that all of them were measured on.

    `baseline` is the model that the others are tested against, by default that of the first run.

    Example:
        comparison = tripletail.compare("runs/shop", "runs/shop-mined")
        print(comparison.headline())
    """
    from pipeline.evaluation.run_comparison import compare_runs

    with user_errors():
        return compare_runs([str(run) for run in runs], baseline, metric)


def load_encoder(model: Where, *, device: str = "auto", **settings: Any) -> Encoder:
    """Load an encoder: a model directory, a name on the Hub, or the artifact of a training.

    Example:
        encoder = tripletail.load_encoder("runs/shop/model", max_length=128)
        encoder.encode(["wireless headphones"], "query")  # [1, D] float32
    """
    folder = model.manifest.notes.get("model", model.path) if isinstance(model, Artifact) else str(model)
    with user_errors():
        return Encoder.load(config.validate(EncoderConfig, {"model": folder, **settings}), device)
