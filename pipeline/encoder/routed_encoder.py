"""Queries and documents by separate ways: Sentence Transformers' Router, such as a static encoder for queries.

Each way is an encoder of its own. Token ids of the second way are counted on from those of the first, so that ids alone
say which way a text goes, in training too, where texts of both roles share a batch.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.encoder import save, token_batches
from pipeline.encoder.config import Role
from pipeline.encoder.encoder import Encoder
from pipeline.encoder.layout import Layout, ModuleEntry, check_chain, read_module
from pipeline.encoder.model_settings import ROLES
from pipeline.encoder.modules.vector_module import VectorModule
from pipeline.encoder.static_encoder import StaticTable
from pipeline.encoder.tokenizer import Ints, Tokens


class RoutedEncoder(Encoder):
    """An encoder for each way, and the modules that follow all of them."""

    def __init__(
        self,
        ways: Mapping[str, Encoder],
        routes: Mapping[str, str],
        *,
        layout: Layout,
        head: Sequence[VectorModule],
        identity: dict[str, str],
        path: str,
    ) -> None:
        """Put ways together by their names; `routes` says which of them a role takes.

        Raises UserError for ways whose vectors have different widths.
        """
        nn.Module.__init__(self)
        self.ways, self.routes, self.head = nn.ModuleDict(ways), dict(routes), nn.ModuleList(head)
        self.layout, self.identity, self.path = layout, identity, path
        first = self._encoders[0]
        self.similarity, self.token_budget, self.prompts = first.similarity, first.token_budget, first.prompts
        self.backend, self.attention, self.runtime_requested, self.runtime = first.backend, first.attention, False, None
        self.max_lengths = {role: self._named[way].max_lengths[role] for role, way in self.routes.items()}
        self.pooling, self.include_prompt = first.pooling, first.include_prompt
        widths = {name: way.dim for name, way in self._named.items()}
        if len(set(widths.values())) > 1:
            raise UserError(f"model {path}: the ways of its router make vectors of different widths: {widths}")
        sizes = [way.transformer.get_input_embeddings().num_embeddings for way in self._encoders]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.dim  # noqa: B018  refuses modules that do not fit each other

    @property
    def _named(self) -> dict[str, Encoder]:
        return {name: way for name, way in self.ways.items() if isinstance(way, Encoder)}

    @property
    def _encoders(self) -> list[Encoder]:
        return list(self._named.values())

    def _way(self, role: str) -> tuple[int, Encoder]:
        """Number and encoder of the way of a role."""
        return list(self.ways).index(self.routes[role]), self._named[self.routes[role]]

    @property
    def transformers(self) -> list[Any]:
        """The transformers of all ways."""
        return [part for way in self._encoders for part in way.transformers]

    @property
    def transformer(self) -> Any:
        """The one transformer of the ways; raises UserError where there are several, as a setting is for one."""
        found = self.transformers
        if len(found) > 1:
            raise UserError(f"model {self.path}: its router has {len(found)} transformers; this setting is for one")
        return found[0] if found else self._encoders[0].transformer

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the documents' way."""
        return self._way("document")[1].tokenizer

    @property
    def packed(self) -> bool:
        """Whether a way takes packed texts."""
        return any(way.packed for way in self._encoders)

    @packed.setter
    def packed(self, value: bool) -> None:
        for way in self._encoders:
            way.packed = value and not isinstance(way.transformer, StaticTable)

    def pack_for_training(self, device: str, dtype: torch.dtype) -> None:
        """Have every way with a transformer take packed texts where that trains faster."""
        for way in self._encoders:
            if way.transformers:
                way.pack_for_training(device, dtype)

    @property
    def _pooled_dim(self) -> int:
        return self._encoders[0].dim

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.parameters()).device

    def use_runtime(self, threads: int) -> Encoder:
        """Compute `encode` of every way by the fastest runtime from here on; returns itself."""
        for way in self._encoders:
            way.use_runtime(threads)
        return self

    def tokenize(self, texts: Sequence[str], role: Role) -> Tokens:
        """Prompt and texts into token ids of the role's way."""
        number, way = self._way(role)
        start = int(self.starts[number])
        return [[token + start for token in row] for row in way.tokenize(texts, role)]

    def whole_lengths(self, texts: Sequence[str], role: Role) -> list[int]:
        """Tokens of each text by the role's way, as if nothing were cut."""
        return self._way(role)[1].whole_lengths(texts, role)

    @property
    def pools_tokens(self) -> bool:
        """Never: token states belong to the ways."""
        return False

    def token_ends(self, texts: Sequence[str]) -> list[Ints]:
        """Characters at which the tokens of documents end, by their way."""
        return self._way("document")[1].token_ends(texts)

    def role_max_length(self, role: Role) -> int:
        """Tokens that texts of a role are cut to, by its way."""
        return self._way(role)[1].role_max_length(role)

    def decode(self, rows: Tokens) -> list[str]:
        """Token ids into texts, each by its way's tokenizer."""
        return [
            self._encoders[way].decode([self._strip(row, way)])[0]
            for row, way in zip(rows, self._ways_of(rows), strict=True)
        ]

    def prompt_length(self, role: Role) -> int:
        """Leading tokens that pooling leaves out."""
        return self._way(role)[1].prompt_length(role)

    def _ways_of(self, rows: Tokens) -> list[int]:
        """Number of the way of each row; a row without a token goes where that means a vector of zeros."""
        empty = next((i for i, way in enumerate(self._encoders) if isinstance(way.transformer, StaticTable)), 0)
        ends = self.starts[1:]
        return [int(np.searchsorted(ends, row[0], side="right")) if row else empty for row in rows]

    def _strip(self, row: Sequence[int], way: int) -> list[int]:
        start = int(self.starts[way])
        return [token - start for token in row]

    def encode_tokens(self, tokens: Tokens, skip: Sequence[int] | None = None) -> Tensor:
        """Token ids of N texts of either role into vectors [N, D] in input order."""
        if not tokens:
            return torch.zeros(0, self.dim, device=self.device)
        of_rows, parts, order = self._ways_of(tokens), [], []
        for number, way in enumerate(self._encoders):
            rows = [row for row, chosen in enumerate(of_rows) if chosen == number]
            if not rows:
                continue
            skipped = None if skip is None else [skip[row] for row in rows]
            parts.append(way.encode_tokens([self._strip(tokens[row], number) for row in rows], skipped))
            order += rows
        inverse = torch.from_numpy(np.argsort(order, kind="stable")).to(self.device)
        vectors = torch.cat([part.float() for part in parts]).index_select(0, inverse)
        return self._finish(vectors + self._unused(set(of_rows)))

    def _unused(self, used: set[int]) -> Tensor:
        """Zero, in whose graph all weights of the ways stand that no text took, as DistributedDataParallel needs it."""
        zero = torch.zeros((), device=self.device)
        if not torch.is_grad_enabled() or len(used) == len(self.ways):
            return zero
        idle = [way for number, way in enumerate(self._encoders) if number not in used]
        return zero + sum(
            (weight.sum() * 0.0 for way in idle for weight in way.parameters() if weight.requires_grad), zero
        )

    def split_batches(self, lengths: Sequence[int], budget: int) -> list[npt.NDArray[np.int64]]:
        """Cut texts of these lengths into batches, the longest texts first."""
        return token_batches.packed_batches(lengths, budget)

    def padding_share(self, lengths: Sequence[int]) -> float:
        """Share of the positions that hold no token, were all texts to take the way that pads most."""
        return max(way.padding_share(lengths) for way in self._encoders)

    def vectors(self, tokens: Tokens, role: Role) -> npt.NDArray[np.float32]:
        """Token ids of N texts of a role into vectors [N, D], by the runtime of its way."""
        number, way = self._way(role)
        made = way.vectors([self._strip(row, number) for row in tokens], role)
        with torch.inference_mode():
            return np.ascontiguousarray(self._finish(torch.from_numpy(made).to(self.device)).cpu().numpy())

    def write_modules(self, folder: Path) -> None:
        """Write the router, every way and the modules that follow."""
        router = self.layout.modules[0]
        for way in self._encoders:
            save.write_chain(folder, way, way.layout.chain)
        save.write_json(folder / router.path / "router_config.json", router.config)
        followers = [entry for entry in self.layout.modules[1:] if entry.kind != "Pooling"]
        for entry, module in zip(followers, self.vector_modules, strict=True):
            save.write_json(folder / entry.path / "config.json", entry.config or module.settings())
            module.write(folder / entry.path)
        save.write_list(folder, self.layout, self.prompts)


def read_ways(path: str, layout: Layout) -> tuple[dict[str, Layout], dict[str, str], tuple[ModuleEntry, ...]]:
    """Read a router: the layout of each way by name, the way of each role, and the entries that follow all ways.

    Raises UserError for ways that no role takes, for modules that two ways share, and for keys that are not known.
    """
    router, following = layout.modules[0], layout.modules[1:]
    try:
        types, structure = dict(router.config["types"]), dict(router.config["structure"])
        parameters = dict(router.config.get("parameters") or {})
    except (KeyError, TypeError) as error:
        raise UserError(f"model {path}: its router's settings lack types or structure") from error
    unknown = sorted(set(router.config) - {"types", "structure", "parameters"})
    unknown += sorted(set(parameters) - {"default_route", "allow_empty_key", "route_mappings"})
    if unknown:
        raise UserError(f"model {path}: its router's settings {', '.join(unknown)} have no meaning here")
    routes = {role: _route(path, role, list(structure), parameters) for role in ROLES}
    idle = sorted(set(structure) - set(routes.values()))
    if idle:
        raise UserError(f"model {path}: way '{idle[0]}' of its router is for neither queries nor documents")
    shared = [name for ways in [list(structure.values())] for name in types if sum(name in way for way in ways) > 1]
    if shared:
        raise UserError(f"model {path}: module '{shared[0]}' is shared by two ways of its router, not supported")
    pooled = tuple(entry for entry in following[:1] if entry.kind == "Pooling")
    ways = {}
    for way, names in structure.items():
        folders = [(types[name], Path(router.path, name).as_posix()) for name in names]
        entries = tuple(read_module(Path(path), type_name, folder) for type_name, folder in folders)
        try:
            ways[way] = Layout(check_chain((*entries, *pooled)).modules, layout.settings.without("truncate_dim"))
        except UserError as error:
            raise UserError(f"model {path}: way '{way}' of its router: {error}") from error
    return ways, routes, following[len(pooled) :]


def _route(path: str, role: str, ways: Sequence[str], parameters: Mapping[str, Any]) -> str:
    """Way of a role: by (task, modality), task, modality, then the default, as Sentence Transformers looks for it."""
    mappings = {ast.literal_eval(key): way for key, way in (parameters.get("route_mappings") or {}).items()}
    named = next(
        (mappings[key] for key in ((role, "text"), (role, None), (None, "text"), (None, None)) if key in mappings), None
    )
    found = named or next((way for way in (role, "text") if way in ways), None) or parameters.get("default_route")
    if found is None and parameters.get("allow_empty_key", True):
        found = ways[0]
    if found not in ways:
        raise UserError(f"model {path}: its router has no way for a {role}; it has {', '.join(ways)}")
    return str(found)
