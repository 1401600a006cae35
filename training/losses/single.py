"""Every loss that stands by itself; a union of types is the registry."""

from typing import Annotated

from pipeline.core.plugins import Registry
from training.losses.base_distillation import Keep
from training.losses.batch_triplet import MinedTriplet
from training.losses.contrastive import Contrastive, OnlineContrastive
from training.losses.cosent import AnglE, CoSENT
from training.losses.cosine import Cosine
from training.losses.infonce import InfoNCE
from training.losses.kl_distillation import KL
from training.losses.listwise import Listwise
from training.losses.margin_mse import MarginMSE
from training.losses.objective import Objective
from training.losses.sigmoid import Sigmoid
from training.losses.triplet import TripletMargin

Basic = Annotated[
    InfoNCE
    | TripletMargin
    | MinedTriplet
    | Contrastive
    | OnlineContrastive
    | CoSENT
    | AnglE
    | Cosine
    | MarginMSE
    | KL
    | Listwise
    | Sigmoid
    | Keep,
    Registry("loss", Objective),
]
