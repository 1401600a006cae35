"""The corpora that `python -m scripts.fetch` knows, by name."""

from scripts.corpora.benchmarks import DBPEDIA, STSB
from scripts.corpora.corpus import Corpus
from scripts.corpora.covidqa import COVIDQA
from scripts.corpora.debian import DEBIAN
from scripts.corpora.medquad import MEDQUAD
from scripts.corpora.products import CHORUS, MOVIES
from scripts.corpora.stackexchange import COFFEE, MATHEDUCATORS

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
