"""An OpenVINO model whose linear layers compute in int8, calibrated so that the vectors stay what they were.

Each linear layer x W^T becomes q(x / s) q(W s)^T, with s moving the outliers of activations into the weights (Xiao et
al. 2022, SmoothQuant, arXiv 2211.10438), one scale an output channel for weights, and for activations one range. How
far outliers move, and how much of the range that real texts show is kept, is what changes a layer's outputs least: ways
to do both are tried on states of those texts. Layer norm, softmax and the products of attention stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.encoder.backends.openvino import compiled, library
from pipeline.encoder.backends.runtime import Batch, feed

Floats = npt.NDArray[np.float32]
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # how much of the outliers moves into the weights; 0: none, 1: all
KEPT = (1.0, 0.8, 0.65, 0.5, 0.35)  # parts of the range of activations; what lies outside is clipped
_LEAST = 1e-5
_JUDGES = 64  # texts that every trial is judged by, about
_STATES = 1024  # token states that a site keeps to be tried on, about


@dataclass
class Site:
    """An activation and the linear layers that take it."""

    source: Any  # output of the graph
    layers: list[tuple[Any, Floats]]  # matrix product, weights [out, in]


@dataclass
class Seen:
    """What real texts show of a site's activation: the range of each channel, and some token states."""

    low: Floats  # [in]
    high: Floats  # [in]
    states: list[Floats]  # [T, in] each

    def widen(self, states: Floats, some: Floats) -> None:
        """Take more token states [T, in] into the ranges, and keep some."""
        self.low, self.high = np.minimum(self.low, states.min(axis=0)), np.maximum(self.high, states.max(axis=0))
        self.states.append(some)


@dataclass(frozen=True)
class Scales:
    """How a site's activation becomes int8: divided by `moved` [in], within one range."""

    moved: Floats
    low: float
    high: float

    def rounded(self, states: Floats) -> Floats:
        """Token states [T, in] / moved as their 256 levels say them."""
        step = (self.high - self.low) / 255
        levels = np.rint((np.clip(states / self.moved, self.low, self.high) - self.low) / step)
        found: Floats = (levels * step + self.low).astype(np.float32)
        return found


@dataclass(frozen=True)
class Outcome:
    """What became of a model: linear layers in int8, of how many, and the mean cosine of sample texts to before."""

    model: Any
    layers: int
    of: int
    cosine: float


def quantised(model: Any, batches: Sequence[Batch], threads: int, least: float) -> Outcome:
    """Turn linear layers of a float32 model to int8 by what `batches` show.

    Sites that cost most by themselves stay as they are, as few as let the mean cosine of the texts' vectors, before
    and after, reach `least`.
    """
    sites = find(model)
    scales = [settle(site, seen) for site, seen in zip(sites, observe(model, sites, batches, threads), strict=True)]
    some = batches[:: max(1, sum(len(ids) for ids, _ in batches) // _JUDGES)]
    wanted = means(compiled(model, "float32", threads, 1), some)

    def tried(chosen: Sequence[int]) -> tuple[Any, float]:
        changed = with_int8(model, scales, chosen)
        return changed, agreement(means(compiled(changed, "float32", threads, 1), some), wanted)

    costs = [1.0 - tried([place])[1] for place in range(len(sites))]
    cheapest = np.argsort(costs, kind="stable")
    layers = np.array([len(site.layers) for site in sites])
    for kept in range(len(sites) + 1):
        chosen = sorted(cheapest[: len(sites) - kept].tolist())
        changed, cosine = tried(chosen)
        if cosine >= least:
            break
    return Outcome(changed, int(layers[chosen].sum()), int(layers.sum()), cosine)


def with_int8(model: Any, scales: Sequence[Scales], chosen: Sequence[int]) -> Any:
    """A copy of a model in which the chosen sites compute in int8."""
    copy = model.clone()
    held = find(copy)
    for place in chosen:
        replace(held[place], scales[place])
    copy.validate_nodes_and_infer_types()
    return copy


def means(running: Any, batches: Sequence[Batch]) -> Floats:
    """Mean token state of each text, at length 1: [N, H]."""
    names = [port.get_any_name() for port in running.inputs]
    parts = []
    for batch in batches:
        mask = batch[1][:, :, None]
        summed = (running(feed(names, batch))[0] * mask).sum(axis=1)
        parts.append(summed / np.linalg.norm(summed, axis=1, keepdims=True).clip(_LEAST))
    found: Floats = np.concatenate(parts)
    return found


def agreement(ours: Floats, wanted: Floats) -> float:
    """Mean cosine of vectors of length 1."""
    return float((ours * wanted).sum(axis=1).mean())


def find(model: Any) -> list[Site]:
    """Every activation that goes into linear layers, each with its layers, in the order of the graph."""
    sites: dict[tuple[str, int], Site] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weights = _constant(node.input_value(1).get_node())
        if weights is not None and weights.ndim == 2:
            source = node.input_value(0)
            key = (source.get_node().get_friendly_name(), source.get_index())
            sites.setdefault(key, Site(source, [])).layers.append((node, weights))
    return list(sites.values())


def _constant(node: Any) -> Floats | None:
    """Weights below a conversion, as float32 [out, in]; None where they are computed."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    weights: Floats = node.get_data().astype(np.float32)
    return weights


def observe(model: Any, sites: Sequence[Site], batches: Sequence[Batch], threads: int) -> list[Seen]:
    """Run a copy of the model over real texts and note what each site's activation is like, without padding."""
    copy = model.clone()
    nodes = {node.get_friendly_name(): node for node in copy.get_ops()}
    copy.add_outputs(
        [nodes[site.source.get_node().get_friendly_name()].output(site.source.get_index()) for site in sites]
    )
    running = compiled(copy, "float32", threads, 1)
    names = [port.get_any_name() for port in running.inputs]
    every = max(1, int(sum(batch[1].sum() for batch in batches)) // _STATES)
    seen: list[Seen] = []
    for batch in batches:
        found = running(feed(names, batch))
        held = batch[1].astype(bool)
        for place in range(len(sites)):
            states = found[place + 1][held]
            if len(seen) == place:
                seen.append(Seen(states.min(axis=0), states.max(axis=0), []))
            seen[place].widen(states, states[::every].copy())
    return seen


def settle(site: Site, seen: Seen) -> Scales:
    """The scales that change a site's outputs least, of all ways to move outliers and to cut the range."""
    states, layers = np.concatenate(seen.states), [weights for _, weights in site.layers]
    wanted = [states @ weights.T for weights in layers]
    best, least = None, np.inf
    for alpha in ALPHAS:
        moved = smoothing(np.maximum(-seen.low, seen.high), layers, alpha)
        low, high = bounds(seen.low / moved, seen.high / moved)
        told = [np.multiply(*rows_int8(weights * moved)) for weights in layers]
        for kept in KEPT:
            scales = Scales(moved, kept * low, kept * high)
            rounded = scales.rounded(states)
            error = sum(
                float(np.square(rounded @ ours.T - before).sum() / np.square(before).sum())
                for ours, before in zip(told, wanted, strict=True)
            )
            if error < least:
                best, least = scales, error
    assert best is not None, "some way of several is the best"
    return best


def replace(site: Site, scales: Scales) -> None:
    """Put int8 in the place of a site's layers."""
    ops = library().opset13
    scaled = ops.multiply(site.source, ops.constant(1 / scales.moved))
    limits = [ops.constant(np.float32(value)) for value in (scales.low, scales.high) * 2]
    activation = ops.fake_quantize(scaled, *limits, 256)
    for node, weights in site.layers:
        codes, scale = rows_int8(weights * scales.moved)
        held = ops.multiply(ops.convert(ops.constant(codes), "f32"), ops.constant(scale))
        product = ops.matmul(activation, held, False, True)
        product.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(product.output(0))


def smoothing(activation: Floats, weights: list[Floats], alpha: float) -> Floats:
    """What each channel [in] of an activation is divided by: max|x|^a / max|w|^(1 - a), about 1 in the middle."""
    most = np.max([np.abs(one).max(axis=0) for one in weights], axis=0)
    moved = np.maximum(activation, _LEAST) ** alpha / np.maximum(most, _LEAST) ** (1 - alpha)
    found: Floats = (moved / np.sqrt(moved.min() * moved.max())).astype(np.float32)
    return found


def bounds(low: Floats, high: Floats) -> tuple[float, float]:
    """One range for all channels: about zero where both signs matter, one-sided after a gate such as GELU."""
    least, most = float(low.min()), float(high.max())
    if least < -0.3 * most:
        most = max(most, -least)
        least = -most
    return min(least, 0.0), most


def rows_int8(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Weights [out, in] as int8 and the scale [out, 1] of each row."""
    scale = np.maximum(np.abs(weights).max(axis=1, keepdims=True), _LEAST).astype(np.float32) / 127
    return np.clip(np.rint(weights / scale), -127, 127).astype(np.int8), scale
