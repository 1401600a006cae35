"""Every source format: the union that validates a recipe's `sources`. A new format is one file and one line here."""

from typing import Annotated

from pipeline.core.plugins import Registry
from pipeline.sources.amazon import Amazon
from pipeline.sources.beir import Beir
from pipeline.sources.csv import Csv
from pipeline.sources.debian import Debian
from pipeline.sources.ditto import Ditto
from pipeline.sources.esci import Esci
from pipeline.sources.generated import Generated
from pipeline.sources.google_merchant import GoogleMerchant
from pipeline.sources.huggingface import HuggingFace
from pipeline.sources.json import Json
from pipeline.sources.jsonl import JsonLines
from pipeline.sources.msmarco import MsMarco
from pipeline.sources.parquet import Parquet
from pipeline.sources.reading.record import SourceConfig
from pipeline.sources.shopify import Shopify
from pipeline.sources.squad import Squad
from pipeline.sources.stackexchange import StackExchange
from pipeline.sources.wands import Wands
from pipeline.sources.woocommerce import WooCommerce
from pipeline.sources.xlsx import Xlsx

Source = Annotated[
    StackExchange
    | JsonLines
    | Json
    | Csv
    | Xlsx
    | Parquet
    | Beir
    | HuggingFace
    | Squad
    | MsMarco
    | Wands
    | Esci
    | Amazon
    | Shopify
    | WooCommerce
    | GoogleMerchant
    | Debian
    | Ditto
    | Generated,
    Registry("source", SourceConfig),
]
