"""Every kind of module that a model directory may name, by the full names that versions of Sentence Transformers write.

A kind that follows pooling is one file here and one line in `VECTOR_MODULES`. Types are compared whole: a module that
only shares its last name with a known one brings code of its own, which is run with `trust_remote_code` alone.
"""

import re

from pipeline.encoder.modules.dense import Dense
from pipeline.encoder.modules.dropout import Dropout
from pipeline.encoder.modules.layer_norm import LayerNorm
from pipeline.encoder.modules.normalize import Normalize
from pipeline.encoder.modules.vector_module import VectorModule

VECTOR_MODULES: dict[str, type[VectorModule]] = {
    "Dense": Dense,
    "LayerNorm": LayerNorm,
    "Normalize": Normalize,
    "Dropout": Dropout,
}
INPUT_MODULES = ("Transformer", "StaticEmbedding")
KINDS = (*INPUT_MODULES, "Router", "Asym", "Pooling", *VECTOR_MODULES)


def _full_names(kind: str) -> list[str]:
    file = "router" if kind == "Asym" else re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
    packages = ("sentence_transformers.base.modules", "sentence_transformers.sentence_transformer.modules")
    return [
        f"sentence_transformers.models.{kind}",
        f"sentence_transformers.models.{kind}.{kind}",
        *(f"{package}{inner}.{kind}" for package in packages for inner in ("", f".{file}")),
    ]


_KIND_OF = {name: kind for kind in KINDS for name in _full_names(kind)}


def kind_of(type_name: str) -> str | None:
    """Kind of a module by the full name of its type; None for one that is not known."""
    return _KIND_OF.get(type_name)


def type_of(kind: str) -> str:
    """Full name under which every version of Sentence Transformers finds a kind."""
    return f"sentence_transformers.models.{kind}"
