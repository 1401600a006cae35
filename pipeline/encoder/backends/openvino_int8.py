"""An OpenVINO model whose linear layers compute in int8, calibrated so that its vectors change little.

Each linear layer x W^T becomes q(x / s) q(W s)^T, with s moving the outliers of activations into the weights (Xiao et
al. 2022, SmoothQuant, arXiv 2211.10438), one scale an output channel for weights, and for activations one range. How
far outliers move, and which share of the range that real texts show is kept, is what changes a layer's outputs least:
ways to do both are tried on states of those texts. Layer norm, softmax and the products of attention are not changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.encoder.backends.openvino import compile_model, import_openvino
from pipeline.encoder.backends.runtime import Batch, Ints, graph_inputs

Floats = npt.NDArray[np.float32]
Pool = Callable[[Floats, Ints], Floats]  # token states [B, L, H] over their mask [B, L] into vectors [B, H]
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # how much of the outliers moves into the weights; 0: none, 1: all
RANGE_SHARES = (1.0, 0.8, 0.65, 0.5, 0.35)  # parts of the range of activations; what lies outside is clipped
_EPSILON = 1e-5
_EVALUATION_TEXTS = 64  # texts on which every trial is measured, about
_SAMPLED_STATES = 1024  # token states of each activation on which scales are tried, about


@dataclass
class QuantizationSite:
    """An activation of the graph and the linear layers that take it."""

    source: Any  # output of the graph
    layers: list[tuple[Any, Floats]]  # matrix product, weights [out, in]


@dataclass
class ActivationStatistics:
    """Statistics of an activation over real texts: the range of each channel, and a sample of token states."""

    low: Floats  # [in]
    high: Floats  # [in]
    states: list[Floats]  # [T, in] each

    def update(self, states: Floats, sample: Floats) -> None:
        """Widen the ranges to token states [T, in], and add a sample of them."""
        self.low, self.high = np.minimum(self.low, states.min(axis=0)), np.maximum(self.high, states.max(axis=0))
        self.states.append(sample)


@dataclass(frozen=True)
class QuantizationScales:
    """How an activation becomes int8: divided by `smoothing` [in], then rounded within one range."""

    smoothing: Floats
    low: float
    high: float

    def rounded(self, states: Floats) -> Floats:
        """Token states [T, in] / smoothing, rounded to the 256 levels of the range."""
        step = (self.high - self.low) / 255
        levels = np.rint((np.clip(states / self.smoothing, self.low, self.high) - self.low) / step)
        rounded: Floats = (levels * step + self.low).astype(np.float32)
        return rounded


@dataclass(frozen=True)
class QuantizedModel:
    """A model of which `quantized` of `linear_layers` compute in int8, and its mean cosine to the original."""

    model: Any
    quantized: int
    linear_layers: int
    cosine: float


def quantize(model: Any, batches: Sequence[Batch], pool: Pool, threads: int, min_cosine: float) -> QuantizedModel:
    """Turn linear layers of a float32 model to int8, calibrated on the texts of `batches`.

    `pool` makes vectors of token states, by which the model is measured. Layers whose change costs most by itself stay
    as they are: as few as let the mean cosine of the texts' vectors, before and after, reach `min_cosine`.
    """
    sites = find_sites(model)
    statistics = observe(model, sites, batches, threads)
    scales = [fit_scales(site, seen) for site, seen in zip(sites, statistics, strict=True)]
    sample = batches[:: max(1, sum(len(ids) for ids, _ in batches) // _EVALUATION_TEXTS)]
    original = unit_vectors(compile_model(model, "float32", threads, 1), sample, pool)

    def attempt(chosen: Sequence[int]) -> tuple[Any, float]:
        changed = with_int8(model, scales, chosen)
        return changed, mean_cosine(unit_vectors(compile_model(changed, "float32", threads, 1), sample, pool), original)

    costs = [1.0 - attempt([site])[1] for site in range(len(sites))]
    cheapest = np.argsort(costs, kind="stable")
    layers = np.array([len(site.layers) for site in sites])
    for left_out in range(len(sites) + 1):
        chosen = sorted(cheapest[: len(sites) - left_out].tolist())
        changed, cosine = attempt(chosen)
        if cosine >= min_cosine:
            break
    return QuantizedModel(changed, int(layers[chosen].sum()), int(layers.sum()), cosine)


def with_int8(model: Any, scales: Sequence[QuantizationScales], chosen: Sequence[int]) -> Any:
    """A copy of a model in which the chosen sites compute in int8."""
    copy = model.clone()
    sites = find_sites(copy)
    for site in chosen:
        replace_layers(sites[site], scales[site])
    copy.validate_nodes_and_infer_types()
    return copy


def unit_vectors(compiled: Any, batches: Sequence[Batch], pool: Pool) -> Floats:
    """Vectors [N, H] of the texts of all batches, at length 1."""
    names = [port.get_any_name() for port in compiled.inputs]
    parts = []
    for batch in batches:
        vectors = pool(compiled(graph_inputs(names, batch))[0], batch[1])
        parts.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(_EPSILON))
    return np.concatenate(parts)


def mean_cosine(ours: Floats, original: Floats) -> float:
    """Mean cosine of pairs of vectors of length 1."""
    return float((ours * original).sum(axis=1).mean())


def find_sites(model: Any) -> list[QuantizationSite]:
    """Every activation that goes into linear layers, each with its layers, in the order of the graph."""
    sites: dict[tuple[str, int], QuantizationSite] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weights = _constant(node.input_value(1).get_node())
        if weights is not None and weights.ndim == 2:
            source = node.input_value(0)
            key = (source.get_node().get_friendly_name(), source.get_index())
            sites.setdefault(key, QuantizationSite(source, [])).layers.append((node, weights))
    return list(sites.values())


def _constant(node: Any) -> Floats | None:
    """Weights below a conversion, as float32 [out, in]; None where they are computed."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    weights: Floats = node.get_data().astype(np.float32)
    return weights


def observe(
    model: Any, sites: Sequence[QuantizationSite], batches: Sequence[Batch], threads: int
) -> list[ActivationStatistics]:
    """Run a copy of the model over real texts and gather the statistics of each site's activation, without padding."""
    copy = model.clone()
    nodes = {node.get_friendly_name(): node for node in copy.get_ops()}
    copy.add_outputs(
        [nodes[site.source.get_node().get_friendly_name()].output(site.source.get_index()) for site in sites]
    )
    compiled = compile_model(copy, "float32", threads, 1)
    names = [port.get_any_name() for port in compiled.inputs]
    stride = max(1, int(sum(batch[1].sum() for batch in batches)) // _SAMPLED_STATES)
    statistics: list[ActivationStatistics] = []
    for batch in batches:
        outputs = compiled(graph_inputs(names, batch))
        mask = batch[1].astype(bool)
        for site in range(len(sites)):
            states = outputs[site + 1][mask]
            if len(statistics) == site:
                statistics.append(ActivationStatistics(states.min(axis=0), states.max(axis=0), []))
            statistics[site].update(states, states[::stride].copy())
    return statistics


def fit_scales(site: QuantizationSite, statistics: ActivationStatistics) -> QuantizationScales:
    """Find the scales that change a site's outputs least, of all ways to move outliers and to clip the range."""
    states, layers = np.concatenate(statistics.states), [weights for _, weights in site.layers]
    outputs = [states @ weights.T for weights in layers]
    best, smallest_error = None, np.inf
    for alpha in ALPHAS:
        smoothing = smoothing_factors(np.maximum(-statistics.low, statistics.high), layers, alpha)
        low, high = clipping_range(statistics.low / smoothing, statistics.high / smoothing)
        rounded_layers = [np.multiply(*quantize_rows(weights * smoothing)) for weights in layers]
        for share in RANGE_SHARES:
            scales = QuantizationScales(smoothing, share * low, share * high)
            rounded = scales.rounded(states)
            error = sum(
                float(np.square(rounded @ ours.T - before).sum() / np.square(before).sum())
                for ours, before in zip(rounded_layers, outputs, strict=True)
            )
            if error < smallest_error:
                best, smallest_error = scales, error
    assert best is not None, "the first error is below infinity"
    return best


def replace_layers(site: QuantizationSite, scales: QuantizationScales) -> None:
    """Replace a site's layers by int8 ones, in place."""
    ops = import_openvino().opset13
    scaled = ops.multiply(site.source, ops.constant(1 / scales.smoothing))
    limits = [ops.constant(np.float32(value)) for value in (scales.low, scales.high) * 2]
    activation = ops.fake_quantize(scaled, *limits, 256)
    for node, weights in site.layers:
        codes, scale = quantize_rows(weights * scales.smoothing)
        dequantized = ops.multiply(ops.convert(ops.constant(codes), "f32"), ops.constant(scale))
        product = ops.matmul(activation, dequantized, False, True)
        product.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(product.output(0))


def smoothing_factors(activation: Floats, layers: list[Floats], alpha: float) -> Floats:
    """Divisor of each channel [in] of an activation: max|x|^a / max|w|^(1 - a), about 1 in the middle."""
    largest = np.max([np.abs(weights).max(axis=0) for weights in layers], axis=0)
    factors = np.maximum(activation, _EPSILON) ** alpha / np.maximum(largest, _EPSILON) ** (1 - alpha)
    centred: Floats = (factors / np.sqrt(factors.min() * factors.max())).astype(np.float32)
    return centred


def clipping_range(low: Floats, high: Floats) -> tuple[float, float]:
    """One range for all channels: symmetric where both signs matter, one-sided after a gate such as GELU."""
    lowest, highest = float(low.min()), float(high.max())
    if lowest < -0.3 * highest:
        highest = max(highest, -lowest)
        lowest = -highest
    return min(lowest, 0.0), highest


def quantize_rows(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Weights [out, in] as int8, and the scale [out, 1] of each row."""
    scale = np.maximum(np.abs(weights).max(axis=1, keepdims=True), _EPSILON).astype(np.float32) / 127
    return np.clip(np.rint(weights / scale), -127, 127).astype(np.int8), scale
