"""Rankings of documents by their passages, beside those of whole texts by the same encoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import Field

from pipeline.encoder.encoder import Encoder
from pipeline.encoder.passage_vectors import CutDocuments, Floats, groups, mixed
from pipeline.encoder.passages import PassageCutter, PassagesConfig
from pipeline.search.best_passages import top_documents
from pipeline.search.exact import Rows, TopK


class PassageRanking(PassagesConfig):
    """A ranking by passages that an evaluation makes with every encoder."""

    name: str = Field("passages", description="how its rows are called, after the encoder's name")

    @property
    def cut(self) -> tuple[int, int, bool]:
        """What decides the vectors of passages."""
        return self.tokens, self.overlap, self.late

    def describe(self) -> str:
        """How it ranks, in words."""
        best = f"documents by their best passage of at most {self.tokens} tokens"
        best += " (late chunking)" if self.late else ""
        best += f", {self.overlap} of which may repeat" if self.overlap else ""
        return best + (f", with the whole text's score as {self.full_text:.0%} of theirs" if self.full_text else "")


@dataclass(frozen=True)
class PassageResult:
    """A ranking by passages that was passage_vectors."""

    model: str
    ranking: PassageRanking

    @property
    def parts(self) -> tuple[str, ...]:
        """What it is tested against: the encoder on whole texts."""
        return (self.model,)

    def as_json(self) -> dict[str, Any]:
        """Return the entry of metrics.json."""
        return {"model": self.model, **self.ranking.model_dump(mode="json", exclude={"name"})}


def rank_passages(
    encoder: Encoder,
    rankings: Sequence[PassageRanking],
    queries: Floats,
    texts: Sequence[str],
    text_vectors: Floats,
    k: int,
    excluded: tuple[Rows, Rows],
    first_row: int,
) -> list[TopK]:
    """Rank documents, whose vectors [N, D] are `text_vectors`, by each ranking; documents cut alike are embedded once.

    `excluded` are (query, row) pairs that are never in the result; the row of the first document is `first_row`.
    """
    best = [TopK.empty(len(queries), k) for _ in rankings]
    for numbers, cutter in _cutters(encoder, rankings):
        for part in groups(texts):
            documents = CutDocuments.cut(cutter, texts[part])
            passage_vectors = documents.vectors(encoder, text_vectors[part])
            owners = documents.owners + first_row + part.start
            for number in numbers:
                vectors = mixed(passage_vectors, text_vectors[part], documents.owners, rankings[number].full_text)
                best[number].merge(top_documents(queries, vectors, owners, k, excluded))
    return best


def _cutters(encoder: Encoder, rankings: Sequence[PassageRanking]) -> Iterator[tuple[list[int], PassageCutter]]:
    """Numbers of the rankings that cut documents alike, and what cuts them."""
    order = sorted(range(len(rankings)), key=lambda number: (rankings[number].cut, number))
    for _, numbers in groupby(order, key=lambda number: rankings[number].cut):
        of_cut = list(numbers)
        yield of_cut, PassageCutter(encoder, rankings[of_cut[0]])
