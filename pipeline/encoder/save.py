"""Write a model directory in the layout of Sentence Transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.encoder import model_directory, static_encoder
from pipeline.encoder.static_encoder import StaticTable
from pipeline.storage.files import new_folder


def write_model(
    path: str,
    transformer: Any,
    tokenizer: Any,
    layout: dict[str, Any],
    card: str | None,
    extra_files: Mapping[str, bytes],
) -> None:
    """Write float32 safetensors, the tokenizer, the layout's JSON files, the model card and `extra_files` by name."""
    with new_folder(path) as folder:
        _write_weights(folder, transformer, tokenizer)
        static = isinstance(transformer, StaticTable)
        json_files = (model_directory.static_files if static else model_directory.layout_files)(**layout)
        for name, content in json_files.items():
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")
        for name, data in extra_files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)


def _write_weights(folder: Path, transformer: Any, tokenizer: Any) -> None:
    if isinstance(transformer, StaticTable):
        static_encoder.save(folder, tokenizer, transformer)
        return
    dtype = next(transformer.parameters()).dtype
    transformer.float().save_pretrained(folder, safe_serialization=True)
    transformer.to(dtype)
    tokenizer.save_pretrained(folder)
