"""The Arrow schema of every table that passes between jobs.

Names follow the field: (anchor, positive, negative) for training rows, (queries, corpus, qrels) for retrieval.
"""

import pyarrow as pa

from pipeline.core.errors import UserError

NEGATIVE = pa.struct(
    [
        ("doc_id", pa.string()),
        ("text", pa.string()),
        ("score", pa.float32()),  # cosine to the anchor under the mining model; null when not mined
        ("rank", pa.int32()),
        ("reason", pa.string()),
    ]
)

CANDIDATE = pa.struct(
    [
        ("doc_id", pa.string()),
        ("score", pa.float32()),  # cosine to the anchor under the mining model
        ("cross_score", pa.float32()),  # of a reranker; null when none was asked
        ("lexical_score", pa.float32()),  # BM25; null when not looked for
        ("positive_similarity", pa.float32()),  # cosine to the pair's positive
        ("cluster", pa.uint64()),  # key of its near-duplicate cluster, or of its text
        ("same_category", pa.bool_()),  # as the pair's positive
        ("shared_tags", pa.int32()),  # with the pair's positive
    ]
)

_PAIR_FIELDS = [
    ("anchor_id", pa.string()),
    ("anchor", pa.string()),
    ("positive_id", pa.string()),
    ("positive", pa.string()),
    ("source", pa.string()),
    ("split", pa.string()),
    ("group_id", pa.string()),  # the unit that must not straddle splits
    ("relevance", pa.float32()),  # graded judgment of the positive; 1 where nothing graded it
    ("weight", pa.float32()),  # what the row counts in training; null counts 1
    ("reason", pa.string()),  # why the row exists
]

OPTIONAL = {  # (table, column) that `conform` fills with nulls where a table has none
    *((table, column) for table in ("pairs", "triplets") for column in ("weight", "teacher_score")),
    ("corpus", "group_id"),
}

TABLES: dict[str, pa.Schema] = {
    "corpus": pa.schema(
        [
            ("doc_id", pa.string()),
            ("title", pa.string()),
            ("text", pa.string()),  # what is embedded: the title is already in it where the source says so
            ("category", pa.string()),
            ("tags", pa.list_(pa.string())),
            ("source", pa.string()),
            ("cluster_id", pa.string()),  # near-duplicate cluster; null when not clustered
            ("group_id", pa.string()),  # product of which this is an offer; null where it is no product
        ]
    ),
    "queries": pa.schema(
        [("query_id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("split", pa.string())]
    ),
    "qrels": pa.schema(
        [
            ("query_id", pa.string()),
            ("doc_id", pa.string()),
            ("relevance", pa.int32()),
            ("split", pa.string()),
        ]
    ),
    "pairs": pa.schema(_PAIR_FIELDS),
    "triplets": pa.schema(
        [
            *_PAIR_FIELDS,
            ("negatives", pa.list_(NEGATIVE)),
            (
                "teacher_score",
                pa.float32(),
            ),  # of the positive, where a teacher scored given negatives
        ]
    ),
    "labelled": pa.schema(
        [
            ("left_id", pa.string()),
            ("left", pa.string()),
            ("right_id", pa.string()),
            ("right", pa.string()),
            ("score", pa.float32()),
            ("source", pa.string()),
            ("split", pa.string()),
        ]
    ),
    "candidates": pa.schema(
        [
            ("anchor_id", pa.string()),
            ("positive_id", pa.string()),
            ("positive_score", pa.float32()),
            ("positive_cross_score", pa.float32()),
            ("positive_lexical_score", pa.float32()),
            ("candidates", pa.list_(CANDIDATE)),
        ]
    ),
    "runs": pa.schema(
        [
            ("query_id", pa.string()),
            ("doc_id", pa.string()),
            ("rank", pa.int32()),
            ("score", pa.float32()),
        ]
    ),
}


PASSAGE = pa.schema([("passage", pa.string()), ("passage_start", pa.int64())])  # beside the vectors of passages


def vectors(dim: int, dtype: pa.DataType | None = None) -> pa.Schema:
    """Return the schema of a vectors table: id and a fixed-size list of `dim` numbers, float32 by default."""
    return pa.schema([("id", pa.string()), ("vector", pa.list_(dtype or pa.float32(), dim))])


def conform(table: pa.Table, name: str) -> pa.Table:
    """Select and cast the columns of table `name`; other columns are dropped, missing optional ones are filled.

    Raises UserError naming the first column that is missing or cannot be cast.
    """
    expected = TABLES[name]
    columns = []
    for field in expected:
        if (name, field.name) in OPTIONAL and field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        if field.name not in table.column_names:
            raise UserError(f"{name}: column '{field.name}' is missing; there are {', '.join(table.column_names)}")
        try:
            columns.append(table.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            actual = table.schema.field(field.name).type
            raise UserError(f"{name}: column '{field.name}' is {actual}, expected {field.type}") from error
    return pa.table(columns, schema=expected)


def check_schema(actual: pa.Schema, name: str, path: str) -> None:
    """Raise UserError for a file whose schema lacks a column of table `name` or has it in another type."""
    for field in TABLES[name]:
        index = actual.get_field_index(field.name)
        if index < 0:
            raise UserError(f"{path}: column '{field.name}' of table '{name}' is missing; rerun the job that wrote it")
        if not (kind := actual.field(index).type).equals(field.type):
            raise UserError(f"{path}: column '{field.name}' is {kind}, expected {field.type} as in table '{name}'")
