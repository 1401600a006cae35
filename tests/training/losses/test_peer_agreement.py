"""Values and gradients equal those of the same loss in Sentence Transformers, on plain tensors in float64."""

import pytest
import torch
from torch import nn

from training.losses.batch_triplet import BatchTriplet
from training.losses.contrastive import Contrastive, OnlineContrastive
from training.losses.cosent import AnglE, CoSENT
from training.losses.cosine import Cosine
from training.losses.false_negatives import MaskConfig
from training.losses.infonce import InfoNCE
from training.losses.kl_distillation import KL
from training.losses.loss import local_batch
from training.losses.margin_mse import MarginMSE
from training.losses.matryoshka import Matryoshka
from training.losses.triplet import TripletMargin

peer = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
util = pytest.importorskip("sentence_transformers.util")

NONE = MaskConfig(same_document=False, known_positives=False, same_query=False, same_cluster=False)
EVERY = ["query_to_document", "document_to_query", "query_to_query", "document_to_document"]
NAMES = {name: name.replace("document", "doc") for name in EVERY}
N, K, DIM = 12, 3, 7


@pytest.fixture
def columns():
    generator = torch.Generator().manual_seed(1)
    shapes = [(N, DIM), (N, DIM), (N, K, DIM)]
    return [torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def same(ours, theirs, inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    used = [x for x in inputs if x.requires_grad]
    mine = torch.autograd.grad(ours, used, materialize_grads=True)
    yours = torch.autograd.grad(theirs, used, materialize_grads=True)
    assert sum(float(x.norm()) for x in yours) > 0, "no gradient to compare"
    for ours_of, theirs_of in zip(mine, yours, strict=True):
        torch.testing.assert_close(ours_of, theirs_of, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("tile", [None, 5])
@pytest.mark.parametrize("hardness", [None, "in_batch", "hard", "all"])
@pytest.mark.parametrize(
    ("directions", "partition"),
    [
        (EVERY[:1], "joint"),
        (EVERY[:2], "joint"),
        (EVERY[:2], "per_direction"),
        (EVERY[:1] + EVERY[2:3], "joint"),
        (EVERY[:1] + EVERY[3:], "joint"),
        (EVERY, "joint"),
    ],
)
def test_infonce(columns, directions, partition, hardness, tile):
    query, positive, negative = columns
    ours = InfoNCE(directions=directions, partition=partition, hardness=hardness, mask=NONE, tile=tile)
    theirs = peer.MultipleNegativesRankingLoss(
        None,
        directions=tuple(NAMES[one] for one in directions),
        partition_mode=partition,
        hardness_mode=hardness and f"{hardness}_negatives",
        hardness_strength=5.0,
    )
    expected = theirs.compute_loss_from_embeddings([query, positive, *negative.unbind(1)], None)
    same(ours(local_batch(query, positive, negative), {}).loss, expected, columns)


DISTANCES = {"cosine": "COSINE", "euclidean": "EUCLIDEAN", "manhattan": "MANHATTAN"}


@pytest.mark.parametrize("distance", DISTANCES)
def test_triplet(columns, distance):
    query, positive, negative = columns
    metric = getattr(peer.TripletDistanceMetric, DISTANCES[distance])
    theirs = peer.TripletLoss(None, distance_metric=metric, triplet_margin=0.7)
    ours = TripletMargin(margin=0.7, distance=distance)(local_batch(query, positive, negative[:, :1]), {})
    same(ours.loss, theirs.compute_loss_from_embeddings([query, positive, negative[:, 0]], None), columns)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    ("mining", "soft", "name"),
    [
        ("all", False, "BatchAllTripletLoss"),
        ("hard", False, "BatchHardTripletLoss"),
        ("semi_hard", False, "BatchSemiHardTripletLoss"),
        ("hard", True, "BatchHardSoftMarginTripletLoss"),
    ],
)
@pytest.mark.parametrize("margin", [0.1, 1.0, 5.0])
def test_mined_triplets(columns, mining, soft, name, distance, margin):
    query = columns[0]
    label = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 3, 3, 1, 2])
    metric = getattr(peer.BatchHardTripletLossDistanceFunction, f"{distance}_distance")
    theirs = getattr(peer, name)(None, distance_metric=metric, **({} if soft else {"margin": margin}))
    ours = BatchTriplet(mining=mining, soft=soft, distance=distance, margin=margin, points="queries", mask=NONE)
    share = ours(local_batch(query, columns[1], label=label), {})
    same(share.loss, theirs.compute_loss_from_embeddings([query], label), [query])


@pytest.mark.parametrize("distance", DISTANCES)
def test_contrastive(columns, distance):
    query, positive, _ = columns
    name = {"cosine": "COSINE_DISTANCE"}.get(distance, distance.upper())
    metric = getattr(peer.SiameseDistanceMetric, name)
    score = torch.tensor([0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1], dtype=torch.float64)
    batch = local_batch(query, positive, score=score)
    # torch's pairwise distance adds 1e-6 to differences, hence the shift of one side
    shifted = query if distance == "cosine" else query - 1e-6
    margin = {"cosine": 0.9, "euclidean": 4.0, "manhattan": 9.0}[distance]
    theirs = peer.ContrastiveLoss(None, distance_metric=metric, margin=margin)
    ours = Contrastive(margin=margin, distance=distance)
    same(ours(batch, {}).loss, theirs.compute_loss_from_embeddings([shifted, positive], score), columns[:2])
    theirs = peer.OnlineContrastiveLoss(None, distance_metric=metric, margin=margin)
    ours = OnlineContrastive(margin=margin, distance=distance)
    same(ours(batch, {}).loss, theirs.compute_loss_from_embeddings([shifted, positive], score), columns[:2])


SCORE = torch.tensor([0, 1, 0.25, 1, 0, 0.5, 0.75, 0.125, 1, 0, 0.25, 1], dtype=torch.float64)


@pytest.mark.parametrize("kind", [0.0, 1.0])
def test_online_contrastive_with_one_kind_of_pairs(columns, kind):
    query, positive, _ = columns
    score = torch.full((N,), kind, dtype=torch.float64)
    theirs = peer.OnlineContrastiveLoss(None, margin=2.0)
    ours = OnlineContrastive(margin=2.0)(local_batch(query, positive, score=score), {})
    same(ours.loss, theirs.compute_loss_from_embeddings([query, positive], score), columns[:2])


@pytest.mark.parametrize(
    ("ours", "name"),
    [(CoSENT(), "CoSENTLoss"), (AnglE(), "AnglELoss"), (Cosine(), "CosineSimilarityLoss")],
)
def test_graded_similarity(columns, ours, name):
    query, positive, _ = columns
    expected = getattr(peer, name)(None).compute_loss_from_embeddings([query, positive], SCORE)
    same(ours(local_batch(query, positive, score=SCORE), {}).loss, expected, columns[:2])


@pytest.mark.parametrize("score", [torch.zeros(N), torch.arange(N)])
def test_cosent_with_ties_only_and_without(columns, score):
    query, positive, _ = columns
    ours = CoSENT()(local_batch(query, positive, score=score.double()), {}).loss
    expected = peer.CoSENTLoss(None).compute_loss_from_embeddings([query, positive], score.double())
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("count", [1, 3])
def test_teachers(columns, count):
    query, positive, negative = columns
    teacher = torch.rand(N, 1 + count, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    known = {"teacher": teacher[:, 0], "negative_teacher": teacher[:, 1:].reshape(-1)}
    batch = local_batch(query, positive, negative[:, :count], **known)
    texts = [query, positive, *negative[:, :count].unbind(1)]
    theirs = peer.MarginMSELoss(None).compute_loss_from_embeddings(texts, teacher)
    same(MarginMSE(similarity="dot")(batch, {}).loss, theirs, columns)
    cosine = peer.MarginMSELoss(None, similarity_fct=util.pairwise_cos_sim)
    same(MarginMSE()(batch, {}).loss, cosine.compute_loss_from_embeddings(texts, teacher), columns)
    theirs = peer.DistillKLDivLoss(
        None, similarity_fct=util.pairwise_cos_sim, student_temperature=0.3, teacher_temperature=0.7
    )
    ours = KL(temperature=0.3, teacher_temperature=0.7)(batch, {})
    same(ours.loss, theirs.compute_loss_from_embeddings(texts, teacher), columns)


class Given(nn.Module):
    """A model whose texts are their embeddings."""

    def get_embedding_dimension(self):
        return DIM

    def forward(self, features):
        return {"sentence_embedding": features["given"]}


@pytest.mark.parametrize("distance", [None, "euclidean"])
def test_matryoshka(columns, distance):
    query, positive, negative = columns
    features = [{"given": x} for x in (query, positive, negative[:, 0])]
    model = Given()
    if distance is None:
        theirs, ours = peer.MultipleNegativesRankingLoss(model), InfoNCE(mask=NONE)
    else:
        theirs, ours = peer.TripletLoss(model, triplet_margin=0.5), TripletMargin(margin=0.5, distance="euclidean")
    whole = peer.MatryoshkaLoss(model, theirs, [DIM, 5, 2], [1, 0.5, 0.25])
    share = Matryoshka(loss=ours, dims=[2, DIM, 5], weights=[0.25, 1, 0.5])(
        local_batch(query, positive, negative[:, :1]), {}
    )
    same(share.loss, whole(features, None), columns)


class Words(Given):
    """A model with the tokenizer that GISTEmbed asks for, and vectors of its own for the same texts."""

    def __init__(self, field, tokenizer):
        super().__init__()
        self.field, self.tokenizer, self.max_seq_length = field, tokenizer, 8

    def forward(self, features):
        return {"sentence_embedding": features[self.field]}


@pytest.mark.parametrize("tile", [None, 5])
@pytest.mark.parametrize(("strategy", "margin"), [("absolute", 0.0), ("absolute", 0.3), ("relative", 0.4)])
@pytest.mark.parametrize(
    ("given", "directions"),
    [(0, EVERY[:1]), (0, [EVERY[0], *EVERY[2:]]), (1, EVERY[:1]), (1, [EVERY[0], EVERY[2]])],
)
def test_a_guide_is_gistembed(columns, minilm, given, directions, strategy, margin, tile):
    """Guide vectors that came with the rows mask as the peer's second forward pass does."""
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(minilm)
    query, positive, negative = columns
    generator = torch.Generator().manual_seed(8)
    guide = [torch.randn(N, 5, generator=generator, dtype=torch.float64) for _ in range(2 + given)]
    texts = [query, positive, *[negative[:, 0]][:given]]
    features = [{"given": a, "guided": b} for a, b in zip(texts, guide, strict=True)]
    theirs = peer.GISTEmbedLoss(
        Words("given", tokenizer),
        Words("guided", tokenizer),
        temperature=0.05,
        margin_strategy=strategy,
        margin=margin,
        contrast_anchors="query_to_query" in directions,
        contrast_positives="document_to_document" in directions,
    )
    mask = NONE.model_copy(update={"guide_margin": margin, "guide_relative": strategy == "relative"})
    names = ("query_guide", "positive_guide", "negative_guide")
    batch = local_batch(query, positive, negative[:, :1] if given else None, **dict(zip(names, guide, strict=False)))
    share = InfoNCE(directions=directions, mask=mask, tile=tile)(batch, {})
    same(share.loss, theirs(features, None), columns)
    assert 0.05 < float(share.report["masked"]) < 0.8
