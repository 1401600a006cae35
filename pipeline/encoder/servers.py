"""Whether another server computes a model directory's vectors: Text Embeddings Inference and vLLM, by what they read.

Neither is run here. The rules are those of their code: Text Embeddings Inference 1.9.3 (router/src/lib.rs,
backends/src/lib.rs, backends/candle/src/lib.rs) and vLLM's `get_pooling_config` with the table of embedding models in
its documentation. Both read modules by the names of Sentence Transformers up to 5, and pass over in silence what they
do not know, so that vectors are wrong rather than refused: that is what these checks are for.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.encoder.layout import Layout, read_layout
from pipeline.encoder.modules.registry import type_of
from pipeline.encoder.pooling import mode_names

_TEI_MODELS = {
    *("bert", "camembert", "deberta-v2", "distilbert", "gemma3_text", "gte", "llama", "mistral", "modernbert", "mpnet"),
    *("new", "nomic_bert", "qwen2", "qwen3", "roberta", "xlm-roberta"),
}
_TEI_GPU_ONLY = {"llama", "mistral", "qwen2"}
_VLLM_ENCODERS = {
    *("BertModel", "ErnieModel", "GteModel", "GteNewModel", "ModernBertModel", "NomicBertModel", "RobertaModel"),
    *("RobertaForMaskedLM", "XLMRobertaModel"),
}
_VLLM_DECODERS = ("Gemma", "Llama", "Mistral", "Qwen")
_POOLING = ("cls", "mean", "lasttoken")
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def check_server(server: str, path: str) -> list[str]:
    """Say why a server would not load a model directory, or would give other vectors; empty where nothing is known.

        check_server("tei", "runs/shop/model")  # []

    Raises UserError for a directory that is no model, and KeyError for a server that is not among `SERVERS`.
    """
    layout, root = read_layout(path), Path(path)
    return [*_both(layout, root), *SERVERS[server](layout, root)]


def _both(layout: Layout, root: Path) -> Iterator[str]:
    """What both servers need alike."""
    if layout.modules[0].kind != "Transformer":
        yield f"its first module is a {layout.modules[0].kind}; both servers begin with a Transformer"
        return
    if not any((root / name).exists() for name in _WEIGHTS):
        yield f"it has no {_WEIGHTS[0]}"
    if not (root / "tokenizer.json").exists():
        yield "it has no tokenizer.json"
    for module in layout.modules:
        if module.kind not in (*_MODULES, "Dropout"):
            yield f"module {module.kind} is left out"
        elif module.kind in _MODULES and (root / "modules.json").exists() and module.type != type_of(module.kind):
            yield f"module {module.type} is not recognised; it must be called {type_of(module.kind)}"
    names = mode_names(layout.chain.pooling)
    if len(names) > 1 or names[0] not in _POOLING:
        yield f"pooling {'+'.join(names)} is none of {', '.join(_POOLING)}"
    entry = layout.chain.pooling_entry
    if entry and "pooling_mode" in entry.config:
        yield "its pooling is stated as `pooling_mode`, which is not read; a key for each mode is"
    if layout.settings.truncate_dim:
        yield f"vectors are not cut to truncate_dim {layout.settings.truncate_dim}"
    if not layout.chain.include_prompt:
        yield "a prompt's tokens are pooled, the model leaves them out"


def _tei(layout: Layout, root: Path) -> Iterator[str]:
    config = _config(root)
    kind = config.get("model_type")
    if kind not in _TEI_MODELS:
        yield f"model type {kind} is not supported"
    if kind in _TEI_GPU_ONLY:
        yield f"model type {kind} needs an NVIDIA GPU"
    if not ({"max_position_embeddings", "max_trained_positions"} & set(config)):
        yield "config.json states no max_position_embeddings"
    if not (root / "1_Pooling" / "config.json").exists():
        yield "it has no 1_Pooling/config.json"
    kinds = [module.kind for module in layout.modules]
    if "Dropout" in kinds and "Dense" in kinds:
        yield "module Dropout makes it read no modules.json, and so no Dense"


def _vllm(layout: Layout, root: Path) -> Iterator[str]:
    architectures = [str(name) for name in _config(root).get("architectures") or []]
    if not any(name in _VLLM_ENCODERS or name.startswith(_VLLM_DECODERS) for name in architectures):
        yield f"architecture {', '.join(architectures) or 'none'} is not among its embedding models"
    if not (root / "modules.json").exists():
        yield "without modules.json the last token's state is taken"


def _config(root: Path) -> dict[str, Any]:
    file = root / "config.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return content


SERVERS: dict[str, Callable[[Layout, Path], Iterator[str]]] = {"tei": _tei, "vllm": _vllm}
TITLES = {"tei": "Text Embeddings Inference", "vllm": "vLLM"}
