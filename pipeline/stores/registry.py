"""Every store that vectors can be published into: a new one is a file with its class and a name here."""

from typing import Annotated

from pipeline.core.plugins import Registry
from pipeline.stores.lancedb import LanceDb
from pipeline.stores.opensearch import OpenSearch
from pipeline.stores.pgvector import PgVector
from pipeline.stores.qdrant import Qdrant
from pipeline.stores.store import Store

AnyStore = Annotated[PgVector | Qdrant | LanceDb | OpenSearch, Registry("store", Store)]
