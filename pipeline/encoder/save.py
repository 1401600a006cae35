"""Write a model directory in the layout of Sentence Transformers: what changed is written anew, the rest is kept."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.encoder import model_directory, static_encoder
from pipeline.encoder.layout import SETTINGS_FILE, Chain, Layout, ModuleEntry
from pipeline.encoder.static_encoder import StaticTable
from pipeline.encoder.transformer_settings import TransformerSettings
from pipeline.storage.files import new_folder

if TYPE_CHECKING:
    from pipeline.encoder.encoder import Encoder

_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt"})
_TOKENIZER = frozenset(
    {"vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"}
    | {"tokenizer_config.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}
)


def write_model(path: str, encoder: "Encoder", card: str | None, extra_files: Mapping[str, bytes]) -> None:
    """Write weights as float32 safetensors, the tokenizer, the modules, the model card and `extra_files` by name.

    Files of the directory that the model came from are carried over where they hold neither weights nor anything that
    is written here.
    """
    with new_folder(path) as folder:
        encoder.write_modules(folder)
        if encoder.path:
            _carry_over(Path(encoder.path), folder)
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")
        for name, data in extra_files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)


def write_modules(folder: Path, encoder: "Encoder") -> None:
    """Write every module of an encoder's chain, the list of them, and the settings of the whole."""
    pooled = encoder.transformer.config.hidden_size
    chain = encoder.layout.chain.with_pooling(encoder.pooling, pooled, include_prompt=encoder.include_prompt)
    write_chain(folder, encoder, chain)
    write_list(folder, replace(encoder.layout, modules=chain.modules), encoder.prompts)


def write_list(folder: Path, layout: Layout, prompts: Mapping[str, str]) -> None:
    """Write the list of the modules, and the settings of the whole with the prompts of the roles."""
    write_json(folder / "modules.json", [_listed(index, entry) for index, entry in enumerate(layout.modules)])
    write_settings(folder, layout, prompts)


def write_settings(folder: Path, layout: Layout, prompts: Mapping[str, str]) -> None:
    """Write the settings of the whole, with the prompts of the roles."""
    write_json(folder / SETTINGS_FILE, layout.settings.to_save(prompts))


def write_chain(folder: Path, encoder: "Encoder", chain: Chain) -> None:
    """Write the modules of a chain, each into its own folder below `folder`."""
    _write_input(folder / chain.input.path, encoder, chain.input)
    if chain.pooling_entry:
        write_json(folder / chain.pooling_entry.path / "config.json", chain.pooling_entry.config)
    for entry, module in zip(chain.head, encoder.vector_modules, strict=True):
        write_json(folder / entry.path / "config.json", entry.config or module.settings())
        module.write(folder / entry.path)


def _write_input(folder: Path, encoder: "Encoder", entry: ModuleEntry) -> None:
    """Write the weights and the tokenizer, and for a transformer its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    transformer, tokenizer = encoder.transformer, encoder.tokenizer
    if isinstance(transformer, StaticTable):
        static_encoder.save(folder, tokenizer, transformer)
        return
    dtype = next(transformer.parameters()).dtype
    transformer.float().save_pretrained(folder, safe_serialization=True)
    transformer.to(dtype)
    tokenizer.save_pretrained(folder)
    settings = TransformerSettings.from_layout(entry.config)
    write_json(folder / settings.file, settings.to_save(encoder.max_length))


def _listed(index: int, entry: ModuleEntry) -> dict[str, Any]:
    """An entry of modules.json."""
    entry = replace(entry, name=entry.name or str(index))
    return {"idx": index, "name": entry.name, "path": entry.path, "type": entry.type}


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file, and its folder where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _carry_over(source: Path, folder: Path) -> None:
    """Copy files that may decide a vector and were not written here: code, and what other programs left beside it."""
    for name in map(Path, model_directory.file_names(source)):
        file = source / name
        held = file.suffix in _WEIGHTS or file.name in _TOKENIZER or file.name.endswith(".index.json")
        if held or not model_directory.decides_vectors(name.as_posix()):
            continue
        if file.name != model_directory.ADAPTER and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
