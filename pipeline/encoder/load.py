"""Load an encoder: the modules of a model directory put together for a device."""

from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import UserError
from pipeline.core.progress import say_once
from pipeline.encoder import model_directory, static_encoder
from pipeline.encoder.attention import disable_cudnn_attention, resolve_attention, use_packed_attention
from pipeline.encoder.backends import backend
from pipeline.encoder.config import EncoderConfig
from pipeline.encoder.custom_encoder import freeze_unused, load_custom
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.layout import Chain, Layout, ModuleEntry, custom_types, read_layout, read_settings
from pipeline.encoder.model_settings import ROLES, SIMILARITIES
from pipeline.encoder.modules.registry import VECTOR_MODULES
from pipeline.encoder.modules.vector_module import VectorModule
from pipeline.encoder.packing import has_own_code
from pipeline.encoder.precision import compute_dtype
from pipeline.encoder.routed_encoder import RoutedEncoder, read_ways
from pipeline.encoder.transformer_loading import load_parts
from pipeline.encoder.transformer_settings import TransformerSettings


def load_encoder(config: EncoderConfig, device: str, *, to_train: bool, weights: str | None = None) -> Encoder:
    """Load the model that the settings name; see `Encoder.load`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path = model_directory.resolve_model(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    custom = custom_types(path) if config.trust_remote_code else []
    if custom:
        entries = (ModuleEntry("custom", "", custom[0]),)
        encoder = load_custom(config, path, override(Layout(entries, read_settings(path)), config), device, custom)
        return freeze_unused(encoder) if to_train else encoder
    layout = override(read_layout(path), config)
    if layout.routed:
        return _load_routed(config, path, layout, device, to_train=to_train)
    return _load_chain(config, path, layout, device, to_train=to_train, weights=weights)


def _load_chain(
    config: EncoderConfig, path: str, layout: Layout, device: str, *, to_train: bool, weights: str | None = None
) -> Encoder:
    if layout.chain.static:
        return _load_static(config, path, layout, device)
    return _load_transformer(config, path, layout, device, to_train=to_train, weights=weights or device)


def _load_routed(config: EncoderConfig, path: str, layout: Layout, device: str, *, to_train: bool) -> Encoder:
    layouts, routes, following = read_ways(path, layout)
    served = {name: way.of_roles([role for role in routes if routes[role] == name]) for name, way in layouts.items()}
    ways = {name: _load_chain(config, path, way, device, to_train=to_train) for name, way in served.items()}
    lengths = {role: ways[way].max_lengths[role] for role, way in routes.items()}
    described = model_directory.identity(
        path, layout, ways[routes["query"]].prompts, layers=config.layers, max_lengths=lengths
    )
    graphs = {name: text for way in ways.values() for name, text in way.identity.items() if name == "graph"}
    dtypes = sorted({way.identity["dtype"] for way in ways.values()})
    return RoutedEncoder(
        ways,
        routes,
        layout=layout.with_max_lengths(lengths),
        head=[_load_module(path, entry).to(device) for entry in following],
        identity=described | {"dtype": "+".join(dtypes)} | graphs,
        path=path,
    ).eval()


def override(layout: Layout, config: EncoderConfig) -> Layout:
    """Layout with the prompts, the width and the similarity that the settings name in place of its own."""
    changes: dict[str, Any] = {}
    if config.truncate_dim:
        changes["truncate_dim"] = config.truncate_dim
    if config.similarity != "auto":
        changes["similarity_fn_name"] = config.similarity
    settings = layout.settings.with_prompts(config.prompts).with_values(changes).with_max_length(config.max_length)
    if settings.similarity not in SIMILARITIES:
        raise UserError(
            f"model {config.model}: is made for similarity '{settings.similarity}', which is not supported; "
            f"choose encoder.similarity {' or '.join(SIMILARITIES)}"
        )
    for role in ROLES:
        name = settings.prompt_name(role, config.prompt_names)
        if name not in (None, role) and role not in (config.prompt_names or {}):
            say_once(
                f"model {config.model}: a {role} takes the model's prompt '{name}': it has none of its role's name"
            )
    return Layout(layout.modules, settings)


def load_head(path: str, chain: Chain, device: str) -> list[VectorModule]:
    """Load the modules after pooling, in float32; raises UserError, with the module's type, for what does not fit."""
    return [_load_module(path, entry).to(device) for entry in chain.head]


def _load_module(path: str, entry: ModuleEntry) -> VectorModule:
    try:
        return VECTOR_MODULES[entry.kind].read(entry.config, Path(path) / entry.path).float()
    except UserError as error:
        raise UserError(f"model {path}: module '{entry.path}': {error}") from error


def _load_transformer(
    config: EncoderConfig, path: str, layout: Layout, device: str, *, to_train: bool, weights: str
) -> Encoder:
    disable_cudnn_attention(device)
    dtype, chain = compute_dtype(config.dtype, device), layout.chain
    settings = TransformerSettings.from_layout(chain.input.config)
    tokenizer, transformer = load_parts(
        path,
        chain.input.path,
        config.layers,
        attention=resolve_attention(config.attention, device, dtype, to_train=to_train),
        trust_remote_code=config.trust_remote_code,
        settings=settings,
    )
    transformer = transformer.to(device=weights, dtype=dtype).eval()
    lengths = model_directory.resolve_max_lengths(
        layout.settings, config.max_length, settings.max_length, tokenizer, transformer
    )
    prompts = layout.settings.role_prompts(config.prompt_names)
    computed_by = {"dtype": "int8" if config.dtype == "int8" else str(dtype).removeprefix("torch.")}
    runtime_requested = not to_train and (config.backend in ("openvino", "onnx") or config.dtype == "int8")
    if runtime_requested:
        backend.require_backend(config.backend, path, device, transformer.config.model_type, config.dtype)
        computed_by |= backend.exported_graph(config.backend, path, config.dtype)
    encoder = Encoder(
        transformer,
        tokenizer,
        layout=layout.with_max_lengths(lengths),
        pooling=chain.pooling,
        head=load_head(path, chain, weights),
        include_prompt=chain.include_prompt,
        prompts=prompts,
        max_lengths=lengths,
        token_budget=config.budget(device),
        identity=model_directory.identity(path, layout, prompts, layers=config.layers, max_lengths=lengths)
        | computed_by,
        path=path,
        similarity=layout.settings.similarity,
        backend=config.backend,
        attention=config.attention,
        packed=use_packed_attention(config.attention, transformer, device, dtype, to_train=to_train),
        runtime_requested=runtime_requested,
    ).eval()
    return freeze_unused(encoder) if to_train and has_own_code(transformer) else encoder


def _load_static(config: EncoderConfig, path: str, layout: Layout, device: str) -> Encoder:
    backend.resolve_backend(config.backend, device, "static", "float32")
    tokenizer, table = static_encoder.load(path, layout.chain.input.path)
    prompts = layout.settings.role_prompts(config.prompt_names)
    lengths = model_directory.resolve_max_lengths(
        layout.settings, config.max_length, tokenizer.max_length, tokenizer, table
    )
    tokenizer.limit(max(lengths.values()))
    return Encoder(
        table.to(device),
        tokenizer,
        layout=layout.with_max_lengths(lengths),
        pooling="mean",
        head=load_head(path, layout.chain, device),
        include_prompt=True,
        prompts=prompts,
        max_lengths=lengths,
        token_budget=config.budget(device),
        identity=model_directory.identity(path, layout, prompts, layers=None, max_lengths=lengths)
        | {"dtype": "float32"},
        path=path,
        similarity=layout.settings.similarity,
    ).eval()
