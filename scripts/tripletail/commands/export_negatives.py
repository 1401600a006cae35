"""Write mined rows as others read them: `tripletail export-negatives NEGATIVES OUT --format n-tuple [flags]`."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.core.config import exit_on_user_error
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.mining.output_formats import json_lines
from pipeline.mining.registry import OUTPUT_FORMATS
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import read_parquet, write_parquet


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    formats = [f"  {name:<14}{form.description}" for name, form in OUTPUT_FORMATS.items()]
    flags = argparse.ArgumentParser(
        "tripletail export-negatives",
        usage="tripletail export-negatives NEGATIVES OUT [FLAGS]",
        description="Write mined rows for Sentence Transformers' losses, or for FlagEmbedding.",
        epilog="\n".join(["formats:", *formats]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("negatives", metavar="NEGATIVES", help="artifact of mine")
    flags.add_argument("out", metavar="OUT", help="a new directory for Parquet, a new file for JSON lines")
    flags.add_argument("--format", choices=OUTPUT_FORMATS, default="n-tuple", help="see below (default: n-tuple)")
    flags.add_argument("--num-negatives", type=int, default=8, help="negatives of an n-tuple (default: 8)")
    flags.add_argument(
        "--scores", action="store_true", help="with the cosines; labeled-pair keeps its label beside them, in `scores`"
    )
    return flags


def main(argv: Sequence[str]) -> None:
    """Write the rows, a file of triplets at a time."""
    options = parser().parse_args(argv)
    with exit_on_user_error("export-negatives"):
        artifact, out = Artifact.open(options.negatives, "mine"), Path(options.out)
        if out.exists():
            raise UserError(f"{out}: exists already; choose another path")
        written = sum(write_rows(name, table, out, options) for name, table in mined_tables(artifact))
        say(f"export-negatives: {out}: {written:,} rows of {artifact.rows('triplets'):,} mined ones")


def mined_tables(artifact: Artifact) -> Iterator[tuple[str, pa.Table]]:
    """The triplets of each file, with the score of each positive in a column, by the name of the file."""
    for triplets, candidates in zip(artifact.files("triplets"), artifact.files("candidates"), strict=True):
        table = read_parquet(triplets, "triplets", ["anchor", "positive", "negatives"])
        scores = read_parquet(candidates, "candidates", ["positive_score"])["positive_score"]
        yield triplets.rsplit("/", 1)[-1], table.append_column("positive_score", scores)


def write_rows(name: str, table: pa.Table, out: Path, options: argparse.Namespace) -> int:
    """Write a file's triplets in the format that the flags name; returns how many rows that makes."""
    form = OUTPUT_FORMATS[options.format]
    rows = form.convert(table, options.num_negatives, scores=options.scores)
    if "score" in rows.column_names:  # of labelled pairs, which a score alone does not say to be right or wrong
        labels = form.convert(table, options.num_negatives)["label"]
        rows = rows.rename_columns({"score": "scores"}).append_column("label", labels)
    if form.json_lines:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("ab") as file:
            file.writelines(json_lines(rows))
    else:
        write_parquet(str(out / name), rows)
    return int(rows.num_rows)
