"""What a build does: blocks into staged files, and step by step one bucket of all files that were staged before."""

from math import ceil, exp

from pipeline.building.decontamination import LeakConfig
from pipeline.building.job import block_bytes, bucket_count
from pipeline.building.leak_join import MAX_BITS
from pipeline.building.read import STAGED_BYTES
from pipeline.sources.reading.record import SCHEMAS
from scripts.bench.scaling.size import COPIES, ZSTD, Size, Staged, Step

IDS, ID, NUMBER = 80, 20, 8  # bytes in memory of what a record has beside its text; of an id; of a number
JUDGMENT = 93  # of a judgment as it is read
UNUSED = {"key", "mention", "body"}  # columns that the joins leave packed
QUESTION_BYTES, GRAPH_BYTES = 27, 64  # of a question of a shared answer as staged, and while groups are merged
BANDS_BYTES, FOUND_BYTES = 25, 40  # of a band's key with what asks for it, and of an evaluation text beside its text


class BuildPlan:
    """The steps of a build at a size, of rows that all state a question and its answer without ids."""

    def __init__(self, size: Size, blocks: int | None = None) -> None:
        self.size, self.steps = size, list[Step]()
        self.buckets = bucket_count(size.bytes, size.buckets)
        self.blocks = blocks or self._blocks()
        in_memory = size.bytes + size.rows * (2 * IDS + JUDGMENT)
        self.parts = self.blocks * (1 + int(in_memory / self.blocks // STAGED_BYTES))
        self.bands = LeakConfig().bands
        self._read()
        self._dedup()
        self._join()
        self._judge()
        self._check_leaks()
        self._finish()

    def _blocks(self) -> int:
        files = ceil(self.size.bytes / self.size.file_bytes)
        return files * ceil(self.size.bytes / files / block_bytes(self.size.bytes))

    def _step(self, name: str, tasks: int = 0) -> Step:
        self.steps.append(Step("build", name, tasks or self.buckets).mark())
        return self.steps[-1]

    def _read(self) -> None:
        size, step = self.size, self._step("read", self.blocks)
        step.open("input", self.blocks, each=size.bytes / self.blocks)
        step.task_memory, step.driver_rows = 3.0 * STAGED_BYTES, self.blocks
        text = size.row_bytes
        self.documents = step.write("documents", self.parts, size.rows, text * (1 - size.question) + IDS)
        self.queries = step.write("queries", self.parts, size.rows, text * size.question + IDS)
        self.judgments = step.write("judgments", self.parts, size.rows, JUDGMENT)

    def _dedup(self) -> None:
        size, count = self.size, self.buckets
        step = self._step("unique_ids")
        for kind in (self.documents, self.queries):
            step.read(kind, buckets=count, width=IDS, columns=6)
        self.unique = step.write("unique_documents", count, size.documents, NUMBER, 1.0) if size.repeated else None
        keys = [
            step.write("keys_documents", count, size.documents, IDS),
            step.write("keys_queries", count, size.rows, IDS),
        ]
        self.lengths = [step.write("evaluation_lengths", count, count, NUMBER)]
        step = self._step("unique_texts")
        for staged in keys:
            step.read(staged, buckets=count)

    def _join(self) -> None:
        size, count = self.size, self.buckets
        step = self._step("join_queries")
        step.read(self.judgments, buckets=count)
        step.read(self.queries, buckets=count, width=ID, columns=2)
        with_query = step.write("judgments_with_query", count, size.rows, size.row_bytes * size.question + IDS)
        step.write("answered", count, count, NUMBER)
        step = self._step("link_answers")
        step.read(with_query, buckets=count, width=IDS, columns=6)
        step.read(self.documents, buckets=count, width=ID, columns=1)
        self.merged: Staged | None = None
        if shared := size.rows * size.repeated:
            self._merge_groups(step.write("answers", count, shared, 2 * ID), shared)
        step = self._step("join_documents")
        step.read(self.documents, buckets=count, columns=_used("documents"))
        if self.unique:
            step.part(self.unique)
        step.read(with_query, buckets=count)
        self._read_merged(step)
        self.with_document = step.write("judgments_with_document", count, size.rows, size.row_bytes + IDS)
        step.write("corpus", count, size.documents, size.row_bytes * (1 - size.question) + ID, ZSTD)

    def _merge_groups(self, answers: Staged, shared: float) -> None:
        """The questions of shared answers, which one task sees all at once."""
        step = self._step("link_questions")
        step.read(answers, buckets=self.buckets)
        step.read(self.queries, buckets=self.buckets, width=2 * ID, columns=3)
        questions = step.write("questions", self.buckets, shared, QUESTION_BYTES, 1.0)
        step = self._step("merge_questions")
        step.read(questions, by=1)
        step.task_memory, step.large_tasks = shared * (QUESTION_BYTES + GRAPH_BYTES), 1
        self.merged = step.write("merged_by_answer", 1, shared, 2 * NUMBER, 1.0)

    def _read_merged(self, step: Step) -> None:
        """Each task reads the names of all merged groups."""
        if self.merged:
            step.read(self.merged)

    def _judge(self) -> None:
        size, count = self.size, self.buckets
        step = self._step("judgments")
        step.read(self.with_document, buckets=count)
        step.read(self.queries, buckets=count, columns=_used("queries"))
        self._read_merged(step)
        held_out, question = size.held_out_rows, size.row_bytes * size.question
        self.evaluation = step.write("evaluation", 3 * count, 3 * held_out, question / 3 + NUMBER * (self.bands + 4))
        self.evaluation_bands = step.write("evaluation_bands", count, held_out * self.bands, BANDS_BYTES, 1.0)
        self.evaluation_keys = step.write("evaluation_keys", 3 * count, held_out * (3 + self.bands), NUMBER, 1.0)
        self.lengths.append(step.write("evaluation_lengths", count, count, NUMBER))
        step.write("queries", count, size.rows, question + ID, ZSTD)
        step.write("qrels", count, size.rows, 2 * ID, ZSTD)
        self.deferred = step.write("pairs", count, size.rows, size.row_bytes + 3 * ID, ZSTD)

    def _check_leaks(self) -> None:
        size, count, found_rows = self.size, self.buckets, 3.0 * self.size.held_out_rows
        step = self._step("add_extra_sets")
        lengths = Staged("evaluation_lengths", 2 * count, 2 * count, NUMBER)
        for staged in (lengths, self.evaluation_keys):
            step.read(staged, by=1)
        step.task_memory, step.large_tasks = step.task_memory / COPIES, 1
        summary = step.write("evaluation_summary", 1, 1, MAX_BITS / 8)
        step = self._step("ask")
        step.read(summary)
        step.part(self.deferred)
        passing = 1 - exp(-self.evaluation_keys.rows / MAX_BITS)  # of keys that the full filter lets through
        asked_bands = step.write("asked_bands", count, size.train_rows * self.bands * passing, BANDS_BYTES, 1.0)
        lookups = step.write("asked", 3 * count, size.train_rows * 4 * passing, 2 * NUMBER, 1.0)
        step = self._step("match_bands")
        step.read(self.evaluation_bands, buckets=count)
        step.read(asked_bands, buckets=count)
        candidates = step.write("candidates", count, size.held_out_rows, FOUND_BYTES)
        step = self._step("match_texts")
        for staged in (self.evaluation, lookups, candidates):
            step.read(staged, buckets=count)
        matches = step.write("found", count, found_rows, size.row_bytes * size.question / 3 + FOUND_BYTES)
        step = self._step("decontaminate")
        step.read(summary)
        step.read(matches, buckets=count)
        step.part(self.deferred)
        step.write("pairs", count, size.rows, size.row_bytes + 3 * ID, ZSTD)

    def _finish(self) -> None:
        """The head reads the footer of every file of the tables, and removes what was staged."""
        self.steps.append(step := Step("build", "finish", 1))
        step.open("footers", 4 * self.buckets, on_head=True)
        step.head_memory = 2000.0 * (self.blocks + len(self.steps) * self.buckets)  # counts, and names of files


def _used(kind: str) -> int:
    """Columns of records that the joins read."""
    return len(set(SCHEMAS[kind].names) - UNUSED)
