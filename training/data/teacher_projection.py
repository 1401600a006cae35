"""A teacher's vectors in the width of the student: projected by PCA where they are wider, filled with zeros else.

PCA, and not a linear layer that is trained beside the student and thrown away: a layer may bend the student's space, so
that what is shipped has other cosines than what was compared with the teacher. The first principal directions keep the
teacher's inner products as well as any D dimensions can (Eckart and Young 1936; without a mean taken off, since that
would change cosines), need no state of their own in a checkpoint, and are computed once, before the first epoch: kills
and workers change nothing. Zeros keep all inner products.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.progress import say
from pipeline.storage import artifact
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import join
from training.data.guide_vectors import GuideConfig, open_guide, read_vectors

Doubles = npt.NDArray[np.float64]
SAMPLE = 65_536  # vectors of each artifact that the directions are computed from


def fit_width(guide: GuideConfig, dim: int, home: str) -> GuideConfig:
    """Return the guide itself where its vectors are `dim` wide, else that of vectors which were brought to this width.

    Those are artifacts below `home`, made once: the same command finds them again.
    """
    artifacts = open_guide(guide)
    wide = max(vectors.shape[1] for item in artifacts.values() for _, vectors in _pieces(item, 1))
    if wide == dim:
        return guide
    paths = {name: join(home, name.removeprefix("guide ")) for name in artifacts}
    inputs = {name: item.manifest.fingerprint for name, item in artifacts.items()}
    inputs["encoder"] = artifact.digest([item.manifest.inputs.get("encoder") for item in artifacts.values()])
    drafts = {
        name: artifact.begin(path, "embed", {"projection": "pca", "dim": dim}, inputs, overwrite=True, exclusive=False)
        for name, path in paths.items()
    }
    if not all(isinstance(draft, Artifact) for draft in drafts.values()):
        directions, kept = principal_directions(artifacts, dim)
        how = f"by PCA, which keeps {kept:.1%} of their squared length" if wide > dim else "with zeros"
        say(f"train: the teacher's vectors are brought from {wide} dimensions to {dim} {how}")
        for name, draft in drafts.items():
            if not isinstance(draft, Artifact):
                _project(artifacts[name], directions, draft)
    return GuideConfig(queries=paths["guide queries"], documents=paths["guide documents"])


def principal_directions(artifacts: Mapping[str, Artifact], dim: int) -> tuple[Doubles, float]:
    """Orthonormal directions [G, dim] that keep most of the vectors, and the share of the squared length they keep.

    They are the first eigenvectors of the second moment of a sample, each with its largest entry above zero. Where the
    vectors are not wider than `dim`, they are the first axes, which keep all.
    """
    samples = [vectors for item in artifacts.values() for _, vectors in _pieces(item, SAMPLE)]
    wide = samples[0].shape[1]
    if wide <= dim:
        return np.eye(wide, dim), 1.0
    moment = sum((part.T @ part for part in samples), np.zeros((wide, wide)))
    values, vectors = np.linalg.eigh(moment)
    directions = vectors[:, ::-1][:, :dim]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(dim)])
    return directions * signs, float(values[::-1][:dim].sum() / max(values.sum(), np.finfo(np.float64).tiny))


def _pieces(item: Artifact, most: int) -> Iterator[tuple[pa.Array, Doubles]]:
    """Ids and vectors [V, G] of an artifact, file by file, up to `most` vectors."""
    for name in item.files("vectors"):
        if most <= 0:
            return
        ids, vectors = read_vectors(item, name)
        yield ids, vectors[:most].astype(np.float64)
        most -= len(vectors)


def _project(item: Artifact, directions: Doubles, draft: artifact.Draft) -> None:
    """Write an artifact of the projected vectors, float16, file by file."""
    for number, name in enumerate(item.files("vectors")):
        ids, vectors = read_vectors(item, name)
        projected = (vectors.astype(np.float64) @ directions).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(projected.ravel()), projected.shape[1])
        draft.write("vectors", pa.table({"id": ids, "vector": column}), number)
    draft.finish(["vectors"])
