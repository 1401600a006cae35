"""Build an index of embedded vectors: `python -m scripts.index --run RUN [--index.type hnsw]`."""

from pipeline.core.config import main
from pipeline.search.job import IndexConfig, run

if __name__ == "__main__":
    main(IndexConfig, "index", run)
