"""Contrastive training of sentence-embedding models on Ray, from Python.

    import tripletail

    data = tripletail.build(run="runs/faq", sources=[{"rows": rows, "kind": "qa"}])
    training = tripletail.train(run="runs/faq", encoder={"model": "path/to/model"}, loop={"epochs": 3})
    tripletail.embed(run="runs/faq")
    tripletail.search("how do I return a parcel?", "runs/faq/vectors", top_k=3)
    data.pandas("pairs")

`build`, `generate`, `mine`, `train`, `train_reranker`, `embed`, `evaluate`, `index` and `sweep` are the jobs, and `run`
does those of a recipe. They take settings as keywords (`tripletail train --help-all` lists them) and return artifacts,
whose tables open as `artifact.dataset(name)` (Ray), `artifact.table(name)` (Arrow) and `artifact.pandas(name)`.
`search`, `inspect`, `compare` and `load_encoder` look at what runs left, and `serve` answers over HTTP. Mistakes
in settings or data are `UserError`, one line that says what to change.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.core.errors import UserError
    from pipeline.search.query import Searcher
    from pipeline.storage.artifact import Artifact

    from .api import (
        build,
        compare,
        embed,
        evaluate,
        generate,
        index,
        inspect,
        load_encoder,
        mine,
        publish,
        run,
        search,
        serve,
        sweep,
        train,
        train_reranker,
    )

__all__ = [
    "Artifact",
    "Searcher",
    "UserError",
    "build",
    "compare",
    "embed",
    "evaluate",
    "generate",
    "index",
    "inspect",
    "load_encoder",
    "mine",
    "publish",
    "run",
    "search",
    "serve",
    "sweep",
    "train",
    "train_reranker",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the command's help must not wait for torch."""
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__]
