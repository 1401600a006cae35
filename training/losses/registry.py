"""Every loss by the name that a recipe gives it, and the names that other libraries have for it.

A new loss is a file of this folder and one line of `SingleLoss`; a name that others have for it is a line of `ALIASES`.
Those of rerankers are `RerankerLoss` and `RERANKER_ALIASES`.
"""

from typing import Annotated, Any

from pipeline.core.plugins import Registry
from training.losses.base_distillation import BaseDistillation
from training.losses.batch_triplet import BatchTriplet
from training.losses.binary_cross_entropy import BinaryCrossEntropy
from training.losses.contrastive import Contrastive, OnlineContrastive
from training.losses.cosent import AnglE, CoSENT
from training.losses.cosine import Cosine
from training.losses.embedding_mse import EmbeddingMSE
from training.losses.infonce import InfoNCE
from training.losses.kl_distillation import KL
from training.losses.listwise import Listwise
from training.losses.loss import Loss
from training.losses.margin_mse import MarginMSE
from training.losses.relative_distillation import RelativeDistillation
from training.losses.sigmoid import Sigmoid
from training.losses.triplet import TripletMargin

SYMMETRIC = {"directions": ["query_to_document", "document_to_query"], "partition": "per_direction"}
GIST = {
    "directions": ["query_to_document", "query_to_query", "document_to_document"],
    "mask": {"guide_margin": 0.0},
}
# Names that Sentence Transformers and others have for these losses, with the settings that they stand for. They may be
# written as those of its classes, too: MultipleNegativesRankingLoss, CoSENTLoss, BatchHardTripletLoss.
ALIASES: dict[str, dict[str, Any]] = {
    "mnrl": {"type": "infonce"},
    "multiple_negatives_ranking": {"type": "infonce"},
    "multiple_negatives_symmetric_ranking": {"type": "infonce", **SYMMETRIC},
    "nt_xent": {"type": "infonce"},
    "batch_all_triplet": {"type": "batch_triplet", "mining": "all"},
    "batch_hard_triplet": {"type": "batch_triplet", "mining": "hard"},
    "batch_semi_hard_triplet": {"type": "batch_triplet", "mining": "semi_hard"},
    "batch_hard_soft_margin_triplet": {"type": "batch_triplet", "mining": "hard", "soft": True},
    "gist_embed": {"type": "infonce", **GIST},
    "cosine_similarity": {"type": "cosine"},
    "distill_kl_div": {"type": "kl"},
    "siglip": {"type": "sigmoid"},
    "mse": {"type": "embedding_mse", "normalize": False},
}

LOSSES = Registry("loss", Loss, ALIASES)

SingleLoss = Annotated[
    InfoNCE
    | TripletMargin
    | BatchTriplet
    | Contrastive
    | OnlineContrastive
    | CoSENT
    | AnglE
    | Cosine
    | MarginMSE
    | KL
    | Listwise
    | Sigmoid
    | BaseDistillation
    | EmbeddingMSE
    | RelativeDistillation,
    LOSSES,
]

# A reranker's score is a vector of one dimension: losses over the documents of a row, by inner products, are its too.
# Names are those of Sentence Transformers' losses of cross-encoders, of which multiple negatives ranking takes a row's
# documents, and others of the batch where `batch_negatives` says so.
RERANKER_ALIASES: dict[str, dict[str, Any]] = {
    "bce": {"type": "binary_cross_entropy"},
    "mnrl": {"type": "listwise"},
    "multiple_negatives_ranking": {"type": "listwise"},
    "localized_contrastive": {"type": "listwise"},
    "list_net": {"type": "listwise", "target": "softmax"},
    "distill_kl_div": {"type": "kl"},
}

RerankerLoss = Annotated[Listwise | BinaryCrossEntropy | MarginMSE | KL, Registry("loss", Loss, RERANKER_ALIASES)]
