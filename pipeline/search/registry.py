"""Every type of index, for the index job and for mining: a new one is a file with its class and a name here."""

from typing import Annotated, Any

from pydantic import TypeAdapter

from pipeline.core.plugins import Registry
from pipeline.search.exact_index import Exact
from pipeline.search.faiss_index import Flat, Hnsw, IvfPq
from pipeline.search.index import IndexType
from pipeline.search.lance_index import Lance

AnyIndex = Annotated[Exact | Flat | Hnsw | IvfPq | Lance, Registry("index", IndexType)]


def index_type(settings: dict[str, Any]) -> IndexType:
    """Return the index type that settings name; raises pydantic's ValidationError for an unknown one."""
    index: IndexType = TypeAdapter(AnyIndex).validate_python(settings)
    return index
