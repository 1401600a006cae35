"""Everything in mining that a recipe or command chooses by name; a new one is one file and one line here."""

from typing import Annotated

from pipeline.core.plugins import Registry
from pipeline.mining import output_formats
from pipeline.mining.bm25_source import Bm25
from pipeline.mining.lexical_candidates import LexicalSource
from pipeline.mining.output_formats import OutputFormat
from pipeline.mining.rules import SelectionRule
from pipeline.mining.threshold_rule import ThresholdRule

Rule = Annotated[ThresholdRule, Registry("rule", SelectionRule)]
Lexical = Annotated[Bm25, Registry("lexical source", LexicalSource)]
OUTPUT_FORMATS = {
    "triplet": OutputFormat(output_formats.triplets, "anchor, positive, negative; a row a negative"),
    "n-tuple": OutputFormat(output_formats.n_tuples, "anchor, positive, negative_1 ...; rows that have them all"),
    "labeled-pair": OutputFormat(output_formats.labeled_pairs, "anchor, positive, label"),
    "labeled-list": OutputFormat(output_formats.labeled_lists, "anchor, [texts], [labels]"),
    "flag": OutputFormat(
        output_formats.flag_embedding, "JSON lines of FlagEmbedding: query, pos, neg and their scores", json_lines=True
    ),
}
