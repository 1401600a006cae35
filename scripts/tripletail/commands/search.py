"""Show the nearest documents of a text: `python -m scripts.search "wireless headphones" --index PATH [--top_k 10]`."""

import argparse

from pipeline.core.config import exit_on_user_error
from pipeline.search.query import Searcher


def main() -> None:
    """Ask and print a line a document."""
    parser = argparse.ArgumentParser("python -m scripts.search", description=__doc__)
    parser.add_argument("text", nargs="+", help="one or more questions")
    parser.add_argument("--index", required=True, help="artifact of scripts.index, or of scripts.embed (exact)")
    parser.add_argument("--model", help="where the model is now, if not where it was when the vectors were made")
    parser.add_argument("--top_k", "--top-k", type=int, default=10, help="documents to show")
    options = parser.parse_args()
    with exit_on_user_error("search"):
        searcher = Searcher(options.index, options.model)
        for text in options.text:
            print(text)
            for number, hit in enumerate(searcher(text, options.top_k), 1):
                print(f"{number:4}  {hit.score:.4f}  {hit.doc_id}  {hit.title}".rstrip())


if __name__ == "__main__":
    main()
