"""Build a FAISS index of embedded vectors: `python -m scripts.index --run RUN [--type.type hnsw]`."""

from pipeline.core.config import main
from pipeline.search.job import IndexConfig, run

if __name__ == "__main__":
    main(IndexConfig, "index", run)
