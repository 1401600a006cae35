"""Write mined rows as others read them: `python -m scripts.export_negatives NEGATIVES OUT --format n-tuple [flags]`."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.core.config import exit_on_user_error
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.mining.output_formats import flag_lines, labelled_lists, labelled_pairs, n_tuples, tuples
from pipeline.storage.artifact import Artifact
from pipeline.storage.files import read_parquet, write_parquet

FORMATS = {
    "triplet": "anchor, positive, negative; a row a negative",
    "n-tuple": "anchor, positive, negative_1 ...; rows that have them all",
    "labeled-pair": "anchor, positive, label",
    "labeled-list": "anchor, [texts], [labels]",
    "flag": "JSON lines of FlagEmbedding: query, pos, neg and their scores",
}


def flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    told = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser = argparse.ArgumentParser("python -m scripts.export_negatives", description=__doc__)
    parser.add_argument("negatives", help="artifact of mine")
    parser.add_argument("out", help="a new directory for Parquet, a new file for JSON lines")
    parser.add_argument("--format", choices=FORMATS, default="n-tuple", help=told)
    parser.add_argument("--num-negatives", type=int, default=8, help="of an n-tuple")
    parser.add_argument("--scores", action="store_true", help="with the cosines")
    return parser.parse_args(argv)


def rows(artifact: Artifact) -> Iterator[tuple[str, pa.Table]]:
    """Files of triplets with the score of each positive beside it, by name."""
    for triplets, candidates in zip(artifact.files("triplets"), artifact.files("candidates"), strict=True):
        table = read_parquet(triplets, "triplets", ["anchor", "positive", "negatives"])
        scores = read_parquet(candidates, "candidates", ["positive_score"])["positive_score"]
        yield triplets.rsplit("/", 1)[-1], table.append_column("positive_score", scores)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows, a file of triplets at a time."""
    options = flags(argv)
    with exit_on_user_error("export_negatives"):
        artifact, out = Artifact.open(options.negatives, "mine"), Path(options.out)
        if out.exists():
            raise UserError(f"{out}: is there already; choose another place")
        written = 0
        if options.format == "flag":
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("wb") as file:
                for _, table in rows(artifact):
                    for line in flag_lines(table):
                        file.write(line)
                        written += 1
        else:
            for name, table in rows(artifact):
                made = shaped(table, options)
                write_parquet(str(out / name), made)
                written += made.num_rows
        say(f"export_negatives: {out}: {written:,} rows of {artifact.rows('triplets'):,} mined ones")


def shaped(table: pa.Table, options: argparse.Namespace) -> pa.Table:
    """Rows in a format of Parquet."""
    if options.format == "n-tuple":
        return n_tuples(table, options.num_negatives, scores=options.scores)
    form = {"triplet": tuples, "labeled-pair": labelled_pairs, "labeled-list": labelled_lists}[options.format]
    return form(table, scores=options.scores)


if __name__ == "__main__":
    main()
