"""Losses against naive few-line formulas, and what they make of masks, weights, schedules and missing data."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn import functional as F

from pipeline.core.errors import UserError
from training.losses.any_loss import AnyLoss, check_rows
from training.losses.batch_triplet import BatchTriplet
from training.losses.cosine import Cosine
from training.losses.false_negatives import MaskConfig
from training.losses.infonce import InfoNCE
from training.losses.kl_distillation import KL
from training.losses.listwise import Listwise
from training.losses.loss import local_batch
from training.losses.margin_mse import MarginMSE
from training.losses.matryoshka import Matryoshka
from training.losses.sigmoid import Sigmoid
from training.losses.triplet import TripletMargin
from training.losses.weighted_sum import WeightedSum

NONE = MaskConfig(same_document=False, known_positives=False, same_query=False, same_cluster=False)


def rows(n=5, negatives=2, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(n, dim), draw(n, dim), draw(n, negatives, dim)


def cosines(query, documents):
    return F.cosine_similarity(query[:, None], documents[None], dim=2)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_infonce_is_the_formula():
    query, positive, negative = rows()
    total = 0.0
    documents = torch.cat([positive, negative.reshape(-1, 6)])
    for i, q in enumerate(query):
        exps = [math.exp(float(F.cosine_similarity(q, d, dim=0)) / 0.05) for d in documents]
        total -= math.log(exps[i] / sum(exps))
    found = InfoNCE(mask=NONE)(local_batch(query, positive, negative), {})
    assert float(found.loss) == pytest.approx(total / 5, rel=1e-10)


def test_learned_temperature_starts_at_the_fixed_one():
    query, positive, negative = rows()
    learned = InfoNCE(mask=NONE, learn_temperature=True)
    start = {name: torch.tensor(value, dtype=torch.float64) for name, value in learned.learnable().items()}
    fixed = InfoNCE(mask=NONE)(local_batch(query, positive, negative), {})
    assert float(learned(local_batch(query, positive, negative), start).loss) == pytest.approx(
        float(fixed.loss), rel=1e-12
    )


@pytest.mark.parametrize("tile", [None, 2])
def test_several_positives_are_the_formulas(tile):
    query, positive, negative = rows(n=4, negatives=2)
    documents = torch.cat([positive, negative.reshape(-1, 6)])
    known = torch.tensor([[10, 12], [11, -1], [12, -1], [13, 20]])
    ids = {
        "positive_id": torch.tensor([10, 11, 12, 13]),
        "negative_id": torch.arange(20, 28),
        "relevant_id": known,
        "negative_score": doubles(0, 0, 2, 0, 0, 0, 0, 0),  # the first negative of row 1 is right after all
    }
    right = [[0, 2], [1, 6], [2], [3, 4]]
    logits = cosines(query, documents) / 0.05
    summed = [logits[i].logsumexp(0) - logits[i][of].logsumexp(0) for i, of in enumerate(right)]
    mean = [logits[i].logsumexp(0) - logits[i][of].mean() for i, of in enumerate(right)]
    one = []
    for i, of in enumerate(right):
        kept = [j for j in range(12) if j == i or j not in of]
        one.append(logits[i][kept].logsumexp(0) - logits[i][i])
    for positives, expected in (("summed", summed), ("mean", mean), ("one", one)):
        found = InfoNCE(positives=positives, tile=tile)(local_batch(query, positive, negative, **ids), {})
        torch.testing.assert_close(found.loss, torch.stack(expected).mean(), rtol=1e-10, atol=0)
        assert float(found.report["masked"]) == pytest.approx(3 / 48 if positives == "one" else 0)


def test_a_margin_masks_what_is_more_similar_than_the_positive():
    query, positive, negative = rows(n=6)
    documents = torch.cat([positive, negative.reshape(-1, 6)])
    cosine = cosines(query, documents)
    right = cosine.diagonal()[:, None]
    out = (cosine > right + 0.1) & (torch.arange(18) != torch.arange(6)[:, None])
    assert 5 < out.sum() < 90
    logits = (cosine / 0.05).masked_fill(out, -torch.inf)
    found = InfoNCE(mask=MaskConfig(margin=0.1))(local_batch(query, positive, negative), {})
    torch.testing.assert_close(found.loss, F.cross_entropy(logits, torch.arange(6)), rtol=1e-10, atol=0)
    assert float(found.report["masked"]) == pytest.approx(float(out.sum()) / 108)


def test_a_teacher_masks_the_negatives_of_a_row_that_it_holds_for_right():
    query, positive, negative = rows(n=3, negatives=2)
    teacher = {"teacher": doubles(0.8, 0.5, torch.nan), "negative_teacher": doubles(0.75, 0.6, 0.1, 0.9, 0.9, 0.9)}
    found = InfoNCE(mask=MaskConfig(teacher_margin=0.1))(local_batch(query, positive, negative, **teacher), {})
    out = torch.zeros(3, 9, dtype=torch.bool)
    out[0, 3] = out[1, 6] = True
    logits = (cosines(query, torch.cat([positive, negative.reshape(-1, 6)])) / 0.05).masked_fill(out, -torch.inf)
    torch.testing.assert_close(found.loss, F.cross_entropy(logits, torch.arange(3)), rtol=1e-10, atol=0)


def test_weights_of_rows_weigh_rows():
    query, positive, negative = rows()
    weight = doubles(1, 0, 2, 0.5, 3)
    each = [
        InfoNCE(directions=["query_to_document"], mask=NONE)(
            local_batch(query, positive, negative, weight=F.one_hot(torch.tensor(i), 5).double()), {}
        ).loss
        for i in range(5)
    ]
    found = InfoNCE(mask=NONE)(local_batch(query, positive, negative, weight=weight), {}).loss
    torch.testing.assert_close(found, (torch.stack(each) * weight).sum() / weight.sum())
    triplets = TripletMargin(margin=1.0)(local_batch(query, positive, negative, weight=weight), {}).loss
    single = torch.stack(
        [
            TripletMargin(margin=1.0)(local_batch(query[i : i + 1], positive[i : i + 1], negative[i : i + 1]), {}).loss
            for i in range(5)
        ]
    )
    torch.testing.assert_close(triplets, (single * weight).sum() / weight.sum())


def test_one_row_alone_has_a_gradient_in_every_direction():
    query, positive, _ = rows(n=1)
    query.requires_grad_()
    every = ["query_to_document", "document_to_query", "query_to_query", "document_to_document"]
    loss = InfoNCE(directions=every)(local_batch(query, positive), {}).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2)) and query.grad.isfinite().all()


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
def test_triplet_is_the_formula(distance):
    query, positive, negative = rows()
    measure = {
        "cosine": lambda a, b: 1 - float(F.cosine_similarity(a, b, dim=0)),
        "euclidean": lambda a, b: float((a - b).norm()),
        "manhattan": lambda a, b: float((a - b).abs().sum()),
    }[distance]
    terms = [
        max(0.0, measure(q, p) - measure(q, n) + 0.3)
        for q, p, ns in zip(query, positive, negative, strict=True)
        for n in ns
    ]
    found = TripletMargin(margin=0.3, distance=distance)(local_batch(query, positive, negative), {})
    assert float(found.loss) == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert float(found.report["active"]) == pytest.approx(sum(t > 0 for t in terms) / len(terms))


def test_a_given_document_as_relevant_as_the_positive_makes_no_triplet():
    query, positive, negative = rows(n=2)
    graded = local_batch(query, positive, negative, score=doubles(3, 0), negative_score=doubles(1, 3, 0, 0))
    first = local_batch(query[:1], positive[:1], negative[:1, :1])
    torch.testing.assert_close(TripletMargin(margin=2.0)(graded, {}).loss, TripletMargin(margin=2.0)(first, {}).loss)


def test_a_margin_moves_while_training():
    query, positive, negative = rows()
    at = lambda **over: float(TripletMargin(**over)(local_batch(query, positive, negative, progress=0.25), {}).loss)  # noqa: E731
    assert at(margin=0.2, last_margin=0.6) == at(margin=0.2 + (0.6 - 0.2) * 0.25) != at(margin=0.2)


def test_triplet_without_negatives_is_zero_and_differentiable():
    query, positive, _ = rows()
    query.requires_grad_()
    share = TripletMargin()(local_batch(query, positive), {})
    share.loss.backward()
    assert float(share.loss.detach()) == 0.0
    assert torch.equal(query.grad, torch.zeros_like(query))


@pytest.mark.parametrize("mining", ["all", "hard", "semi_hard"])
def test_batch_triplets_are_the_definition(mining):
    """Queries and documents as points, with labels, an anchor without positives and a masked document, by loops."""
    query, noise, _ = rows(n=6, seed=3)
    positive = query + 0.3 * noise
    label = torch.tensor([0, 1, 0, 2, 1, 3])
    ids = torch.tensor([1, 2, 3, 4, 5, 2])  # row 5 has the document of row 1
    points, labels, owner = torch.cat([query, positive]), label.repeat(2).tolist(), [*range(6), *range(6)]
    distance = torch.cdist(points, points)
    other = lambda a, n: labels[a] != labels[n] and {owner[a], owner[n]} != {1, 5}  # noqa: E731
    terms, looked_at, active = [], 0, 0
    for a in range(12):
        right = [float(distance[a, p]) for p in range(12) if p != a and labels[p] == labels[a]]
        wrong = [float(distance[a, n]) for n in range(12) if other(a, n)]
        if mining == "hard":
            pairs = [(max(right), [min(wrong)])]
        elif mining == "semi_hard":
            pairs = [(p, [min((n for n in wrong if n > p), default=max(wrong))]) for p in right]
        else:
            pairs = [(p, wrong) for p in right]
        found = [max(0.0, p - n + 0.4) for p, ns in pairs for n in ns]
        looked_at, active = looked_at + len(found), active + sum(one > 0 for one in found)
        terms += [one for one in found if one > 0] if mining == "all" else found
    batch = local_batch(query, positive, label=label, positive_id=ids)
    share = BatchTriplet(mining=mining, margin=0.4, distance="euclidean")(batch, {})
    assert float(share.loss) == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert float(share.report["active"]) == pytest.approx(active / looked_at)
    assert 0 < active < looked_at


def test_mining_takes_a_query_for_a_label():
    query, positive, _ = rows(n=4)
    same = torch.tensor([7, 8, 7, 9])
    by_query = BatchTriplet()(local_batch(query, positive, query_id=same), {}).loss
    torch.testing.assert_close(by_query, BatchTriplet()(local_batch(query, positive, label=same), {}).loss)
    with pytest.raises(UserError, match="batch_triplet: the training rows have no labels"):
        BatchTriplet()(local_batch(query, positive), {})


def test_a_batch_without_any_triplet_is_zero_and_differentiable():
    query, positive, _ = rows()
    query.requires_grad_()
    for mining in ("all", "hard", "semi_hard"):
        share = BatchTriplet(mining=mining)(local_batch(query, positive, label=torch.zeros(5, dtype=torch.int64)), {})
        share.loss.backward()
        assert float(share.loss.detach()) == 0.0 and query.grad.abs().sum() == 0


def test_sigmoid_is_the_formula():
    query, positive, negative = rows(n=4)
    ids = torch.tensor([1, 2, 1, 4])
    objective = Sigmoid()
    learned = {name: torch.tensor(value, dtype=torch.float64) for name, value in objective.learnable().items()}
    total = 0.0
    for i in range(4):
        for j, document in enumerate(torch.cat([positive, negative.reshape(-1, 6)])):
            if {i, j} != {0, 2}:
                sign = 1 if i == j else -1
                logit = sign * (10 * float(F.cosine_similarity(query[i], document, dim=0)) - 10)
                total -= math.log(1 / (1 + math.exp(-logit)))
    share = objective(local_batch(query, positive, negative, positive_id=ids), learned)
    assert float(share.loss) == pytest.approx(total / 4, rel=1e-10)
    assert float(share.report["masked"]) == pytest.approx(2 / 48)


def test_listwise_is_the_formula():
    query, positive, negative = rows(n=3, negatives=2)
    grade, others = doubles(3, 0, 0), doubles(1, 0, 0, 2, 0, 0)  # row 2 has nothing relevant
    batch = local_batch(query, positive, negative, score=grade, negative_score=others)
    lists = torch.cat([positive[:, None], negative], dim=1)
    logits = F.cosine_similarity(query[:, None], lists, dim=2) / 0.05
    grades = torch.cat([grade[:, None], others.reshape(3, 2)], dim=1)
    net = F.cross_entropy(logits, grades.softmax(dim=1))
    torch.testing.assert_close(Listwise(target="softmax")(batch, {}).loss, net)
    gains = doubles([7 / 8, 1 / 8, 0], [0, 0, 1], [0, 0, 0])
    gain = F.cross_entropy(logits[:2], gains[:2])
    torch.testing.assert_close(Listwise()(batch, {}).loss, gain)
    every = (cosines(query, torch.cat([positive, negative.reshape(-1, 6)])) / 0.05).logsumexp(dim=1)
    in_batch = (every - (gains * logits).sum(dim=1))[:2].mean()
    torch.testing.assert_close(Listwise(in_batch=True)(batch, {}).loss, in_batch)


def test_in_batch_listwise_of_one_grade_is_infonce():
    query, positive, negative = rows()
    batch = local_batch(query, positive, negative, score=torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(Listwise(in_batch=True)(batch, {}).loss, InfoNCE()(batch, {}).loss)


def test_what_the_teacher_has_not_scored_does_not_count():
    query, positive, negative = rows(n=3, negatives=2)
    teacher, others = doubles(0.9, torch.nan, 0.7), doubles(0.1, torch.nan, 0.2, 0.3, 0.4, 0.5)
    batch = local_batch(query, positive, negative, teacher=teacher, negative_teacher=others)
    s = F.cosine_similarity(query[:, None], torch.cat([positive[:, None], negative], dim=1), dim=2)
    margins = torch.stack([s[0, 0] - s[0, 1] - 0.8, s[2, 0] - s[2, 1] - 0.3, s[2, 0] - s[2, 2] - 0.2])
    found = MarginMSE()(batch, {})
    torch.testing.assert_close(found.loss, margins.pow(2).mean())
    assert float(found.report["scored"]) == 0.5
    kl = lambda s, t: F.kl_div((s / 0.05).log_softmax(0), (t / 0.05).softmax(0), reduction="sum") * 0.05**2  # noqa: E731
    expected = (kl(s[0, :2], doubles(0.9, 0.1)) + kl(s[2], doubles(0.7, 0.4, 0.5))) / 2
    found = KL()(batch, {})
    torch.testing.assert_close(found.loss, expected)
    assert float(found.report["scored"]) == pytest.approx(2 / 3)


def test_matryoshka_draws_the_same_lengths_everywhere_and_others_each_step():
    objective = Matryoshka(dims=[2, 6, 4, 3], weights=[1, 2, 3, 4], dims_per_step=2, loss=InfoNCE(mask=NONE))
    assert all(len(objective.lengths_at(step)) == 2 for step in range(20))
    assert {one for step in range(60) for one in objective.lengths_at(step)} == {(2, 1), (6, 2), (4, 3), (3, 4)}
    assert [objective.lengths_at(step) for step in range(9)] == [objective.lengths_at(step) for step in range(9)]
    query, positive, negative = rows()
    share = objective(local_batch(query, positive, negative, step=5), {})
    expected = [
        weight * InfoNCE(mask=NONE)(local_batch(query[:, :dim], positive[:, :dim], negative[..., :dim]), {}).loss
        for dim, weight in objective.lengths_at(5)
    ]
    torch.testing.assert_close(share.loss, sum(expected))
    with pytest.raises(UserError, match="dims has 8, but vectors are 6 long"):
        Matryoshka(dims=[8])(local_batch(query, positive), {})


def test_a_sum_is_a_sum():
    query, positive, negative = rows()
    batch = local_batch(query, positive, negative, score=doubles(0, 1, 1, 0, 0.5))
    parts = [{"weight": 0.5, "loss": {"type": "triplet", "margin": 1.0}}, {"loss": {"type": "cosine"}}]
    both = TypeAdapter(AnyLoss).validate_python({"type": "weighted_sum", "losses": [*parts, parts[0]]})
    triplet, cosine = TripletMargin(margin=1.0)(batch, {}), Cosine()(batch, {})
    share = both(batch, {})
    torch.testing.assert_close(share.loss, 1.0 * triplet.loss + cosine.loss)
    torch.testing.assert_close(share.report["loss_1"], cosine.loss)
    torch.testing.assert_close(share.report["active"], share.report["2_active"])


def test_learned_scalars_of_a_sum_are_kept_apart():
    losses = [{"loss": {"learn_temperature": True}}, {"loss": {"type": "sigmoid"}}]
    objective = TypeAdapter(AnyLoss).validate_python(
        {"type": "matryoshka", "loss": {"type": "weighted_sum", "losses": losses}}
    )
    assert set(objective.learnable()) == {"0_log_scale", "1_log_scale", "1_bias"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"type": "infonce", "directions": ["document_to_query"]}, "must hold query_to_document"),
        (
            {
                "type": "infonce",
                "directions": ["query_to_document", "query_to_query"],
                "partition": "per_direction",
            },
            "use partition joint",
        ),
        ({"type": "infonce", "partition": "per_direction", "positives": "mean"}, "several positives need"),
        ({"type": "listwise", "in_batch": True, "target": "softmax"}, "in_batch needs target gain"),
        ({"type": "batch_triplet", "mining": "all", "soft": True}, "soft goes with mining hard"),
        ({"type": "batch_triplet", "mask": {"guide_margin": 0.1}}, "masked by ids alone"),
        ({"type": "matryoshka", "dims": [4, 4]}, "different and positive"),
        ({"type": "matryoshka", "dims": [4, 2], "weights": [1]}, "as many as dims"),
        ({"type": "weighted_sum", "losses": []}, "at least 1 item"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        TypeAdapter(AnyLoss).validate_python(settings)


def test_missing_scores_are_named_with_the_fix():
    query, positive, negative = rows()
    with pytest.raises(UserError, match=r"loss cosine: .* have no scores; train on rows: \[labelled\]"):
        Cosine()(local_batch(query, positive), {})
    with pytest.raises(UserError, match=r"loss kl: .* have no teacher scores; train on rows: \[mined\]"):
        KL()(local_batch(query, positive, negative), {})


def test_labelled_rows_are_refused_to_losses_that_hold_every_row_for_right():
    check_rows(Cosine(), ["labelled"])
    check_rows(WeightedSum(losses=[{"loss": {"type": "cosent"}}]), ["labelled"])
    check_rows(InfoNCE(), ["pairs"])
    for loss in (InfoNCE(), Matryoshka(), WeightedSum(losses=[{"loss": {"type": "cosent"}}, {}])):
        with pytest.raises(UserError, match=r"rows: \[labelled\] hold wrong ones"):
            check_rows(loss, ["pairs", "labelled"])


def test_a_guide_and_the_mask_that_asks_for_it_go_together():
    asks = Matryoshka(loss=WeightedSum(losses=[{"loss": {"mask": {"guide_margin": 0.0}}}]))
    check_rows(asks, ["pairs"], guided=True)
    with pytest.raises(UserError, match=r"mask\.guide_margin: needs vectors of a guide; give guide"):
        check_rows(asks, ["pairs"])
    with pytest.raises(UserError, match=r"guide: no loss uses it"):
        check_rows(InfoNCE(), ["pairs"], guided=True)
    query, positive, negative = rows()
    with pytest.raises(UserError, match="have no guide vectors"):
        InfoNCE(mask=MaskConfig(guide_margin=0.1))(local_batch(query, positive, negative), {})


def test_a_tie_of_the_guide_is_no_doubt():
    """The same text as the positive, under another id, scores the same: margin 0 keeps it, any margin masks it."""
    query, positive, _ = rows(n=4)
    guide = F.normalize(torch.randn(4, 384, generator=torch.Generator().manual_seed(2)), dim=1).half()
    twins = guide[[0, 0, 2, 3]]
    same = {"query_guide": twins, "positive_guide": twins * torch.tensor([[1], [3], [1], [1]])}
    for margin, masked in ((0.0, 0), (0.01, 2)):
        share = InfoNCE(mask=MaskConfig(guide_margin=margin))(local_batch(query, positive, **same), {})
        assert round(float(share.report["masked"]) * 16) == masked
