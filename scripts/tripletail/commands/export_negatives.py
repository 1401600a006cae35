"""Write mined rows as others read them: `python -m scripts.export_negatives NEGATIVES OUT --format n-tuple [flags]`."""

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


def flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    formats = "; ".join(f"{name}: {form.description}" for name, form in OUTPUT_FORMATS.items())
    parser = argparse.ArgumentParser("python -m scripts.export_negatives", description=__doc__)
    parser.add_argument("negatives", help="artifact of mine")
    parser.add_argument("out", help="a new directory for Parquet, a new file for JSON lines")
    parser.add_argument("--format", choices=OUTPUT_FORMATS, default="n-tuple", help=formats)
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
        form = OUTPUT_FORMATS[options.format]
        out.parent.mkdir(parents=True, exist_ok=True)
        for name, table in rows(artifact):
            converted = form.convert(table, options.num_negatives, scores=options.scores)
            if form.json_lines:
                with out.open("ab") as file:
                    file.writelines(json_lines(converted))
            else:
                write_parquet(str(out / name), converted)
            written += converted.num_rows
        say(f"export_negatives: {out}: {written:,} rows of {artifact.rows('triplets'):,} mined ones")


if __name__ == "__main__":
    main()
