"""The corpus in two dimensions: t-SNE of sampled documents, for the map in the report."""

from collections import Counter

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.corpus_sample import Sample
from pipeline.report.document_map import OTHER
from pipeline.storage.shards import spread

MAX_DOCUMENTS, ITERATIONS = 800, 500  # documents: what a page can hold and t-SNE does in a few seconds
MIN_DOCUMENTS, COLOURS = 12, 7
METHOD = "t-SNE of the first 50 principal components"


def project(vectors: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """Place unit vectors [N, D] in the unit square [N, 2] so that near ones stay near (van der Maaten, Hinton 2008)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    centred = vectors.astype(np.float64)
    principal = PCA(min(50, *centred.shape), svd_solver="full").fit_transform(centred)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed, learning_rate="auto", max_iter=ITERATIONS)
    with threadpool_limits(1):  # its threads wait for each other in a loop, which a busy machine makes very slow
        positions = tsne.fit_transform(principal)
    low, high = positions.min(axis=0), positions.max(axis=0)
    square: npt.NDArray[np.float32] = ((positions - low) / np.where(high > low, high - low, 1)).astype(np.float32)
    return square


def documents_to_draw(sample: Sample) -> npt.NDArray[np.int64]:
    """Indices in the sample of the documents to draw: evenly spread, all where there are few."""
    return spread(len(sample.rows), MAX_DOCUMENTS)


def colours(sample: Sample) -> list[str]:
    """Name [N] by which each document is coloured: the top level of its category, for rare ones their source."""
    tops = [name.split(" > ")[0].strip() for name in sample.categories]
    common = [name for name, _ in Counter(tops).most_common() if name][: COLOURS - 2]
    several = len(set(sample.sources)) > 1
    rest = Counter(source for top, source in zip(tops, sample.sources, strict=True) if top not in common)
    common_sources = [source for source, _ in rest.most_common() if source and several][: COLOURS - len(common)]
    return [
        top if top in common else f"more {source}" if source in common_sources else OTHER
        for top, source in zip(tops, sample.sources, strict=True)
    ]
