"""Build a FAISS index of embedded vectors: `python -m scripts.index --run RUN [--type.type hnsw]`."""

from pipeline.config import main
from pipeline.index.job import IndexConfig, run

if __name__ == "__main__":
    main(IndexConfig, "index", run)
