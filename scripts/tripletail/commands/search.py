"""Show the nearest documents of a text: `tripletail search "wireless headphones" --index PATH [--system mix]`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        "tripletail search",
        description="Show the nearest documents of a text, or of each line that is typed.",
    )
    flags.add_argument("text", nargs="*", help="queries; without any they are read from stdin, a line each")
    flags.add_argument("--index", required=True, metavar="PATH", help="artifact of index, or of embed (exact search)")
    flags.add_argument("--model", help="where the model is now (default: where it was when the vectors were made)")
    flags.add_argument(
        "--system", default="dense", help="dense (default), bm25, mix or rrf; all but dense need an index with bm25"
    )
    flags.add_argument("--weight", type=float, help="of BM25's scores under --system mix (default: 0.5)")
    flags.add_argument("--reranker", metavar="PATH", help="cross-encoder that ranks the first 100 anew")
    flags.add_argument("--top_k", "--top-k", type=int, default=10, help="documents to show (default: 10)")
    return flags


def system(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the system that flags ask for."""
    ranked: dict[str, Any] = {"type": options.system}
    if options.weight is not None:
        ranked["weight"] = options.weight
    if options.reranker is None:
        return ranked
    return {"type": "rerank", "of": ranked, "cross_encoder": {"model": options.reranker}}


def main(argv: Sequence[str]) -> None:
    """Search, and print a line for each document: rank, score, id and title, and another one for its passage."""
    options = parser().parse_args(argv)
    from pipeline.core.config import exit_on_user_error
    from pipeline.search.query import Searcher

    with exit_on_user_error("search"):
        searcher = Searcher(options.index, options.model, system(options))
        for text in options.text or _typed():
            print(text)
            for number, hit in enumerate(searcher(text, options.top_k), 1):
                print(f"{number:4}  {hit.score:.4f}  {hit.doc_id}  {hit.title}".rstrip(), flush=True)
                if hit.passage is not None:
                    print(f"      {' '.join(hit.passage.split())}", flush=True)


def _typed() -> Iterator[str]:
    """Lines of stdin that hold a text, asked for one by one on a terminal; the model stays loaded between them."""
    while True:
        if sys.stdin.isatty():
            print("query (Ctrl-D ends): ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
