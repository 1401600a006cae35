"""Selected candidates that a language model takes for an answer: false negatives, which no row gets."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.generation.judge import Judge
from pipeline.generation.ledger import Ledger
from pipeline.mining.candidate_arrays import Bools
from pipeline.mining.rules import SelectionRule
from pipeline.mining.selection import select_from_table, selected_candidates


def judge_selected(
    pairs: pa.Table, candidates: pa.Table, rule: SelectionRule, texts: pa.Table, judge: Judge
) -> tuple[Bools, dict[str, Any]]:
    """Mask [P, K] of the candidates that a rule selects and that answer their anchor, and counts of the answers.

    `texts` (doc_id, text) holds the documents that are selected. An anchor and a document are judged once.
    """
    selection, _ = select_from_table(candidates, rule)
    chosen, row, column = selected_candidates(candidates, selection)
    doc = pc.index_in(chosen.field("doc_id"), value_set=texts["doc_id"].combine_chunks()).to_pylist()
    anchors, document_texts = pairs["anchor"].to_pylist(), texts["text"].to_pylist()
    questions = [(anchors[index], document_texts[number]) for index, number in zip(row.tolist(), doc, strict=True)]
    distinct, ledger = list(dict.fromkeys(questions)), Ledger()
    answers = judge.relevant([query for query, _ in distinct], [text for _, text in distinct], ledger)
    verdict = dict(zip(distinct, answers, strict=True))
    relevant = np.zeros(selection.selected.shape, np.bool_)
    relevant[row, column] = [verdict[pair] for pair in questions]
    return relevant, dict(ledger.notes)
