"""Splits by answer: questions to which rows state one answer are one group, so that no wording of it tests another.

Only rows that hold both texts and no grade link their questions (`judgments.stated`: kinds qa, pair without a grade).
Where queries are judged against a corpus, as in product search, one document is right for many of them; links would
join nearly all queries, and that a document was seen in training is what every search system is tested with. A question
whose row names a group follows that group alone: a question about a product has "Yes." for an answer as others have.

Groups are merged that share an answer, directly or through others. Documents named once are left out where they stand;
of the others a few numbers move between tasks, and one task sees all of them: 27 bytes for each question of a shared
answer. Groups are told apart by 64-bit hashes, so that the result depends neither on buckets nor on their order.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.building.cluster_splits import QUERY_GROUPS
from pipeline.building.dedup import ALIASES, DedupSteps
from pipeline.building.merged_groups import MERGED, MergedGroups, group_names
from pipeline.building.near_duplicates import EDGES, components
from pipeline.building.pairs import JUDGMENTS_WITH_QUERY
from pipeline.sources.reading.record import SCHEMAS
from pipeline.sources.reading.splits import HELD_OUT_ORDER, SplitConfig
from pipeline.storage.counts import Counts
from pipeline.storage.shuffle import Shuffle, bucket_hashes
from pipeline.text.columns import as_array, hash64_column

ANSWERED = pa.schema([("bucket", pa.uint64())])
ANSWERS = pa.schema([("answer", pa.uint64()), ("query_id", pa.string()), ("split", pa.string())])
QUESTIONS = pa.schema(
    [
        ("answer", pa.uint64()),
        ("query", pa.uint64()),
        ("group", pa.uint64()),
        ("split", pa.int8()),
        ("forced", pa.bool_()),  # the split is stated, or follows from the group that the row names
        ("grouped", pa.bool_()),
    ]
)
LARGE_SHARE, LARGE_GROUP = 0.5, 20  # of all queries, and least questions, from which one group is warned of
Numbers = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AnswerGroupSteps:
    """The tasks between the join of judgments with queries and that with documents that link questions by answers."""

    splits: SplitConfig
    shuffle: Shuffle
    by_cluster: Callable[[], Mapping[str, str]] | None = None  # names of groups that near duplicates merged, where any

    def steps(self) -> list[Callable[[int], Counts]]:
        """Return the tasks in order; each needs all buckets of the one before."""
        return [self.link_answers, self.link_questions, self.merge_questions]

    def mark(self, judgments: pa.Table, bucket: int) -> None:
        """Note that judgments of a bucket are stated with both texts: without any, none of the tasks has to run."""
        if pc.any(judgments["stated"]).as_py():
            self._single_bucket.write("answered", f"{bucket:05d}", pa.table([[bucket]], schema=ANSWERED), by="bucket")

    def link_answers(self, bucket: int) -> Counts:
        """Stage the questions of the documents of a bucket that are stated as answers more than once."""
        if not self.shuffle.has("answered"):
            return Counts()
        names = ("query_id", "doc_id", "relevance", "split", "stated", "order")
        judgments = self.shuffle.read(
            "judgments_with_query", bucket, pa.schema([JUDGMENTS_WITH_QUERY.field(name) for name in names])
        )
        judgments = DedupSteps(self.shuffle).without_conflicting(judgments, "documents", bucket)
        self._stage_document_groups(bucket, judgments)
        right = pc.and_(pc.fill_null(judgments["stated"], False), pc.greater(judgments["relevance"], 0))
        answers = judgments.select(["query_id", "doc_id", "split"])
        answers = answers if pc.all(right).as_py() else answers.filter(right)
        shared, ids = self._shared(bucket, as_array(answers["doc_id"]))
        answers = answers.filter(shared)
        rows = pa.table([_numbers(ids), answers["query_id"], answers["split"]], schema=ANSWERS)
        self.shuffle.write("answers", f"{bucket:05d}", rows, by="query_id")
        return Counts()

    def link_questions(self, bucket: int) -> Counts:
        """Give the questions of shared answers the group and the split that they have by themselves."""
        answers = self.shuffle.read("answers", bucket, ANSWERS)
        if not len(answers):
            return Counts()
        asking = answers["query_id"].unique()
        queries = DedupSteps(self.shuffle).find("queries", bucket, asking, ["group", "split"])
        row = pc.index_in(answers["query_id"], queries["id"].combine_chunks())
        own = queries["group"].take(row)
        own = pc.if_else(pc.equal(own, ""), None, own)
        smallest = self.shuffle.read("query_groups", bucket, QUERY_GROUPS).group_by("query_id")
        of_documents = smallest.aggregate([("group", "min")])
        position = pc.index_in(answers["query_id"], of_documents["query_id"].combine_chunks())
        groups = as_array(pc.coalesce(own, of_documents["group_min"].take(position), answers["query_id"]))
        groups = MergedGroups(self.by_cluster() if self.by_cluster else {}).of(groups)
        forced = as_array(pc.coalesce(queries["split"].take(row), answers["split"]))
        split = pc.index_in(pc.coalesce(forced, self.splits.assigned(groups)), HELD_OUT_ORDER)
        columns = [answers["answer"], bucket_hashes(answers["query_id"]), bucket_hashes(groups), split.cast(pa.int8())]
        grouped = as_array(own.is_valid())
        rows = pa.table([*columns, pc.or_(forced.is_valid(), grouped), grouped], schema=QUESTIONS)
        rows = rows.group_by(["answer", "query"]).aggregate(
            [("group", "min"), ("split", "min"), ("forced", "max"), ("grouped", "max")]
        )
        self._single_bucket.write("questions", f"{bucket:05d}", rows.rename_columns(QUESTIONS.names), by="answer")
        return Counts()

    def merge_questions(self, bucket: int) -> Counts:
        """Merge the groups of questions that share answers, and count them; one task does it for all."""
        tally = Counts()
        if bucket or not self.shuffle.has("questions"):
            return tally
        rows = self._single_bucket.read("questions", 0, QUESTIONS)
        _, index, count = np.unique(rows["answer"].to_numpy(), return_inverse=True, return_counts=True)
        rows = rows.filter(pa.array(count[index] > 1))
        answer, split = rows["answer"].to_numpy(), rows["split"].to_numpy()
        tally.counts["shared_answers"] += int((count > 1).sum())
        tally.counts["shared_answers_in_several_splits_by_question"] += _in_several_splits(answer, split)
        if self.splits.by_answer:
            free = rows.filter(pc.invert(rows["grouped"]))
            merged = merge(free["answer"].to_numpy(), free["group"].to_numpy())
            self._single_bucket.write("merged_by_answer", "all", merged, by="group")
            tally.counts["questions_of_largest_answer_group"] += _largest(
                free.filter(pc.invert(free["forced"])), merged
            )
            split = self._after_merging(rows, merged)
        tally.counts["shared_answers_in_several_splits"] += _in_several_splits(answer, split)
        tally.counts = +tally.counts  # without zeros
        return tally

    def _after_merging(self, rows: pa.Table, merged: pa.Table) -> Rows:
        """Splits [N] of rows of `QUESTIONS` when groups are merged."""
        row = pc.index_in(rows["group"], merged["group"].combine_chunks())
        moved = row.is_valid().to_numpy() & ~rows["forced"].to_numpy()
        numbers = merged["merged_group"].take(row.filter(pa.array(moved))).to_numpy()
        split: Rows = rows["split"].to_numpy().copy()
        split[moved] = pc.index_in(self.splits.assigned(group_names(numbers)), HELD_OUT_ORDER).to_numpy()
        return split

    def merged_groups(self) -> MergedGroups:
        """Read the common names of merged groups."""
        by_answer = self._single_bucket.read("merged_by_answer", 0, MERGED)
        return MergedGroups(self.by_cluster() if self.by_cluster else {}, by_answer)

    def most_shared(self) -> tuple[str, int]:
        """Return the text of the answer that most questions share, and their number; for a message."""
        count = Counter[int]()
        for bucket in range(self.shuffle.buckets):
            answers = self.shuffle.read("answers", bucket, ANSWERS).group_by(["answer", "query_id"]).aggregate([])
            count.update(answers["answer"].to_pylist())
        ((number, questions),) = count.most_common(1)
        for bucket in range(self.shuffle.buckets):
            documents = DedupSteps(self.shuffle).read("documents", bucket, ["text"])
            for row in np.flatnonzero(_numbers(documents["id"]) == number)[:1].tolist():
                return documents["text"][row].as_py(), questions
        return "", questions

    def _shared(self, bucket: int, ids: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Which documents [N] of a bucket are named again, or under another id, and the canonical ids of these."""
        index = ids.dictionary_encode().indices.to_numpy()
        copies = self.shuffle.read("copies_documents", bucket, ALIASES)
        others = self.shuffle.read("aliases_documents", bucket, ALIASES)
        aliases = pa.chunked_array([*copies["id"].chunks, *others["canonical_id"].chunks], pa.string())
        shared = pc.or_(pa.array(np.bincount(index)[index] > 1), pc.is_in(ids, value_set=aliases.combine_chunks()))
        ids = ids.filter(shared)
        row = pc.index_in(ids, copies["id"].combine_chunks())
        return shared, as_array(pc.coalesce(copies["canonical_id"].take(row), ids))

    def _stage_document_groups(self, bucket: int, judgments: pa.Table) -> None:
        """Stage the groups of the documents of each query; where splits follow clusters, they are staged already."""
        if self.by_cluster:
            return
        groups = self.shuffle.read("documents", bucket, pa.schema([SCHEMAS["documents"].field("group")]))["group"]
        if groups.null_count == len(groups):
            return
        documents = DedupSteps(self.shuffle).read("documents", bucket, ["group"])
        group = documents["group"].take(pc.index_in(judgments["doc_id"], documents["id"].combine_chunks()))
        rows = pa.table([judgments["query_id"], group], schema=QUERY_GROUPS)
        rows = rows.filter(pc.fill_null(pc.not_equal(group, ""), False))
        self.shuffle.write("query_groups", f"{bucket:05d}", rows, by="query_id")

    @property
    def _single_bucket(self) -> Shuffle:
        return Shuffle(self.shuffle.path, 1)


def merge(answers: Numbers, groups: Numbers) -> pa.Table:
    """Rows of `MERGED` from the answer and the group of some questions [N]: groups that are linked to others.

    The name of a merged group is the smallest number in it.
    """
    if not len(groups):
        return MERGED.empty_table()
    nodes, first = components(pa.table([answers, groups], schema=EDGES))
    distinct = np.unique(groups)
    component = first[np.searchsorted(nodes, distinct)]
    _, smallest, row, count = np.unique(component, return_index=True, return_inverse=True, return_counts=True)
    several = count[row] > 1
    return pa.table([distinct[several], distinct[smallest[row]][several]], schema=MERGED)


def _largest(rows: pa.Table, merged: pa.Table) -> int:
    """Questions of the largest merged group, of those in rows of `QUESTIONS`; 0 where none was merged."""
    row = pc.index_in(rows["group"], merged["group"].combine_chunks())
    groups = merged["merged_group"].take(row.drop_null()).to_numpy()
    _, first = np.unique(rows["query"].filter(row.is_valid()).to_numpy(), return_index=True)
    return int(np.unique(groups[first], return_counts=True)[1].max(initial=0))


def messages(splits: SplitConfig, counts: Counter[str]) -> list[str]:
    """Say what became of answers that several questions share; nothing where there are none."""
    shared, apart = counts["shared_answers"], counts["shared_answers_in_several_splits_by_question"]
    left = counts["shared_answers_in_several_splits"]
    if not shared:
        return []
    if not splits.by_answer:
        return [
            f"{shared:,} answers have several questions; {apart:,} of them stand in two splits or more "
            "(`split.by_answer: true` keeps their questions together)"
        ]
    forced = f"; {left:,} still do, by splits or groups that the sources state" if left else ""
    return [
        f"{shared:,} answers have several questions, which share a split; {apart:,} of them would stand in two splits "
        f"or more with `split.by_answer: false`{forced}"
    ]


def is_large(counts: Counter[str]) -> bool:
    """Whether one group holds so many queries that there is little to split."""
    largest = counts["questions_of_largest_answer_group"]
    return largest >= LARGE_GROUP and largest > LARGE_SHARE * counts["table queries"]


def large_group_message(counts: Counter[str], answer: str, questions: int) -> str:
    """Say that one group holds most queries, through which answer, and what to do."""
    largest, total = counts["questions_of_largest_answer_group"], counts["table queries"]
    return (
        f"one group of {largest:,} of {total:,} queries shares answers and therefore a split; {questions:,} have "
        f"{answer[:60]!r}: name such an answer in `null_values` of its source, or set `split.by_answer: false`"
    )


def _in_several_splits(answers: Numbers, splits: Rows) -> int:
    """How many answers have questions [N] in more than one split."""
    pairs = np.unique(np.stack([answers, splits.astype(np.uint64)]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def _numbers(ids: pa.Array | pa.ChunkedArray) -> Numbers:
    """Numbers [N] of documents as answers; other than those of groups, of which one may have the id of a document."""
    return hash64_column(ids, "answer")
