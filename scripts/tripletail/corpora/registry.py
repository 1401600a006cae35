"""The corpora that `python -m scripts.fetch` knows, by name."""

from .benchmarks import DBPEDIA, STSB
from .corpus import Corpus
from .covidqa import COVIDQA
from .debian import DEBIAN
from .medquad import MEDQUAD
from .products import CHORUS, MOVIES
from .stackexchange import COFFEE, MATHEDUCATORS

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        MEDQUAD,
        COVIDQA,
        COFFEE,
        MATHEDUCATORS,
        CHORUS,
        MOVIES,
        DEBIAN,
        STSB,
        DBPEDIA,
    )
}
