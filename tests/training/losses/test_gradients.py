"""The gradient of W ranks is the gradient of one process: invariant 1, for every loss, plain, cached and in tiles."""

from functools import cache
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.text.normalize import stable_id
from tests.support.ranks import run_ranks
from training.loop.gradient_cache import GradientCache, PlainPass
from training.losses.any_loss import AnyLoss
from training.losses.false_negatives import MaskConfig, ScoreFilter, document_mask, query_mask
from training.losses.gather import gather, world
from training.losses.loss import FLOAT16, FLOATS, GATHERED, Batch

ROWS, DIM, STEP, PROGRESS = 12, 8, 3, 0.4
MARGIN = 0.05
GIVEN = [2, 0, 1, 3, 2, 1, 2, 0, 3, 1, 2, 2]  # negatives of each row
SPLITS = {
    "equal": {1: [12], 2: [6, 6], 3: [4, 4, 4], 4: [3, 3, 3, 3]},
    "unequal": {1: [12], 2: [9, 3], 3: [1, 7, 4], 4: [2, 5, 1, 4]},
    "none on a rank": {1: [12], 2: [0, 12], 3: [7, 5, 0], 4: [0, 6, 0, 6]},
}
EVERY = ["query_to_document", "document_to_query", "query_to_query", "document_to_document"]
UNMASKED = {"same_document": False, "known_positives": False, "same_query": False, "same_cluster": False}
GTE = {"type": "infonce", "directions": EVERY, "learn_temperature": True}
SETTINGS = {
    "infonce": {"type": "infonce"},
    "infonce unmasked": {"type": "infonce", "mask": UNMASKED},
    "infonce both ways": {
        "type": "infonce",
        "directions": EVERY[:2],
        "partition": "per_direction",
        "learn_temperature": True,
    },
    "infonce gte": GTE,
    "infonce gte tiled": {**GTE, "tile": 5, "mask": {"margin": 0.1}},
    "infonce in-batch hardness": {"type": "infonce", "hardness": "in_batch", "hardness_strength": 9},
    "infonce hard hardness tiled": {"type": "infonce", "hardness": "hard", "tile": 4},
    "infonce all hardness": {"type": "infonce", "hardness": "all", "learn_temperature": True},
    "infonce dot": {"type": "infonce", "similarity": "dot", "temperature": 1.0, "mask": {"margin": 0.5}},
    "infonce dot tiled": {**GTE, "similarity": "dot", "temperature": 2.0, "tile": 5},
    "infonce dot mean": {"type": "infonce", "similarity": "dot", "temperature": 2.0, "positives": "mean"},
    "infonce margin": {"type": "infonce", "mask": {"margin": 0.05}},
    "infonce teacher": {"type": "infonce", "mask": {"teacher_margin": 0.1}},
    "infonce guide": {
        "type": "infonce",
        "directions": EVERY[:2],
        "partition": "per_direction",
        "mask": {"guide_margin": 0.1},
    },
    "infonce gte guide tiled": {**GTE, "tile": 5, "mask": {"guide_margin": 0.2, "guide_relative": True}},
    "infonce mean guide": {"type": "infonce", "positives": "mean", "mask": {"guide_margin": -0.1}},
    "infonce summed": {"type": "infonce", "positives": "summed", "learn_temperature": True},
    "infonce mean": {"type": "infonce", "positives": "mean", "directions": EVERY},
    "infonce mean tiled": {"type": "infonce", "positives": "mean", "tile": 5},
    "triplet cosine": {"type": "triplet", "margin": 0.5},
    "triplet euclidean": {"type": "triplet", "margin": 0.2, "last_margin": 1.2, "distance": "euclidean"},
    "triplet manhattan": {"type": "triplet", "margin": 2.0, "distance": "manhattan"},
    "mined all": {"type": "batch_triplet", "mining": "all", "distance": "euclidean", "margin": 0.5},
    "mined all queries": {"type": "batch_triplet", "mining": "all", "points": "queries"},
    "mined hard": {"type": "batch_triplet", "mining": "hard", "distance": "manhattan", "last_margin": 2},
    "mined semi-hard": {"type": "batch_triplet", "mining": "semi_hard"},
    "mined soft": {"type": "batch_triplet", "soft": True, "distance": "euclidean", "points": "queries"},
    "contrastive": {"type": "contrastive"},
    "contrastive euclidean": {"type": "contrastive", "distance": "euclidean", "margin": 1.0, "last_margin": 2.0},
    "online contrastive": {"type": "online_contrastive", "margin": 1.2},
    "online contrastive mean": {"type": "online_contrastive", "margin": 1.2, "reduction": "mean"},
    "cosent": {"type": "cosent"},
    "angle": {"type": "angle"},
    "cosine": {"type": "cosine"},
    "margin mse": {"type": "margin_mse"},
    "margin mse dot": {"type": "margin_mse", "similarity": "dot"},
    "kl": {"type": "kl"},
    "listwise gain": {"type": "listwise"},
    "listwise softmax": {"type": "listwise", "target": "softmax"},
    "listwise in batch": {"type": "listwise", "in_batch": True, "mask": {"margin": 0.2}},
    "listwise in batch tiled": {"type": "listwise", "in_batch": True, "tile": 5, "mask": {"guide_margin": 0.1}},
    "base_distillation": {"type": "base_distillation"},
    "infonce and base_distillation": {
        "type": "weighted_sum",
        "losses": [{"loss": GTE}, {"weight": 0.5, "loss": {"type": "base_distillation"}}],
    },
    "matryoshka of a sum with keep": {
        "type": "matryoshka",
        "dims": [8, 4],
        "loss": {
            "type": "weighted_sum",
            "losses": [{"loss": {"type": "infonce"}}, {"weight": 2, "loss": {"type": "base_distillation"}}],
        },
    },
    "embedding mse": {"type": "embedding_mse"},
    "embedding mse, lengths too": {"type": "embedding_mse", "normalize": False},
    "relative": {"type": "relative_distillation"},
    "relative tiled": {"type": "relative_distillation", "tile": 5},
    "matryoshka of relative and infonce": {
        "type": "matryoshka",
        "dims": [8, 4],
        "loss": {
            "type": "weighted_sum",
            "losses": [{"loss": {"type": "infonce"}}, {"weight": 2, "loss": {"type": "relative_distillation"}}],
        },
    },
    "sigmoid": {"type": "sigmoid"},
    "sigmoid guide": {"type": "sigmoid", "tile": 3, "mask": {"guide_margin": 0.0}},
    "sigmoid tiled": {"type": "sigmoid", "tile": 2, "mask": {"margin": 0.3}},
    "matryoshka": {"type": "matryoshka", "dims": [8, 4, 2], "weights": [1, 0.5, 0.25], "loss": GTE},
    "matryoshka drawn tiled": {
        "type": "matryoshka",
        "dims": [8, 6, 4, 2],
        "dims_per_step": 2,
        "loss": {"type": "infonce", "tile": 5},
    },
    "weighted_sum": {
        "type": "weighted_sum",
        "losses": [
            {"loss": {"type": "infonce", "learn_temperature": True}},
            {"weight": 0.3, "loss": {"type": "triplet", "margin": 0.5}},
            {"weight": 0.1, "loss": {"type": "sigmoid"}},
        ],
    },
    "matryoshka of a sum": {
        "type": "matryoshka",
        "dims": [8, 4],
        "loss": {
            "type": "weighted_sum",
            "losses": [{"loss": {"type": "kl"}}, {"weight": 2, "loss": {"type": "cosent"}}],
        },
    },
}
BY_SOURCE = {
    "type": "by_source",
    "sources": {"faq": {**GTE, "tile": 5}, "sts": {"type": "cosent"}},
    "others": {"type": "infonce", "learn_temperature": True, "temperature": 0.2},
}
# the source of all rows of a batch decides which of the losses it gets; data() has rows of the source "faq"
SETTINGS |= {
    "by source": {**BY_SOURCE, "weights": {"faq": 0.3}},
    "by source, another's": {
        **BY_SOURCE,
        "sources": {"sts": GTE, "faq": {"type": "cosent"}},
        "weights": {"faq": 2.0, "sts": 9.0},
    },
    "by source, of others": {**BY_SOURCE, "sources": {"shop": {"type": "triplet"}, "sts": {"type": "cosent"}}},
    "by source, a sum": {
        **BY_SOURCE,
        "sources": {
            "faq": {
                "type": "matryoshka",
                "dims": [8, 4],
                "loss": {
                    "type": "weighted_sum",
                    "losses": [
                        {"loss": {"type": "infonce", "learn_temperature": True}},
                        {"weight": 0.5, "loss": {"type": "base_distillation"}},
                    ],
                },
            }
        },
    },
}
LOSSES = {name: TypeAdapter(AnyLoss).validate_python(settings) for name, settings in SETTINGS.items()}


class Tiny(nn.Module):
    """Texts, whose first token is their number in a table of inputs, into embeddings; the loss's scalars beside."""

    def __init__(self, table: torch.Tensor, learned: dict[str, float]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("table", table)
        self.weight = nn.Parameter(torch.randn(DIM, DIM, generator=generator, dtype=torch.float64))
        self.scalars = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(value, dtype=torch.float64)) for name, value in learned.items()}
        )

    def forward(self, tokens, skip):
        rows = torch.tensor([text[0] for text in tokens], dtype=torch.int64)
        return torch.tanh(self.table[rows] @ self.weight)


@cache
def data():
    """Inputs of all texts, and by name of the gather what the rows know; duplicates, siblings, gaps are planted."""
    generator = torch.Generator().manual_seed(11)
    uniform = lambda n: torch.rand(n, generator=generator, dtype=torch.float64)  # noqa: E731
    total = sum(GIVEN)
    table = torch.randn(2 * ROWS + total, DIM, generator=generator, dtype=torch.float64)
    row = torch.arange(ROWS).repeat_interleave(torch.tensor(GIVEN))
    positive_id = torch.arange(100, 100 + ROWS)
    positive_id[7] = positive_id[2]
    negative_id = torch.arange(500, 500 + total)
    negative_id[6] = positive_id[9]
    query_id = torch.arange(ROWS)
    query_id[10] = query_id[1]
    known = torch.stack([positive_id, torch.full((ROWS,), -1)], dim=1)
    known[5, 1] = positive_id[0]
    cluster = torch.where(torch.arange(ROWS) % 5 == 0, 77, -1)
    teacher, negative_teacher = uniform(ROWS), uniform(total)
    teacher[4], negative_teacher[2] = torch.nan, torch.nan
    guide = torch.randn(2 * ROWS + total, 8, generator=generator).half()
    guide[ROWS + 9], guide[2 * ROWS + 6] = guide[ROWS + 2], guide[ROWS + 9]  # the same texts for the guide
    guide[3], guide[ROWS + 5], guide[2 * ROWS + 1] = torch.nan, torch.nan, torch.nan
    score = torch.tensor([0, 1, 0.2, 1, 0, 0.6, 3, 2, 1, 0, 0.2, 1], dtype=torch.float64)
    negative_score = (uniform(total) > 0.7).double() * 2
    beside = {
        "query.id": query_id,
        "query.relevant": known,
        "query.relevant_cluster": torch.stack([cluster, torch.full((ROWS,), -1)], dim=1),
        "query.label": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 3, 3, 1, 0]),
        "query.score": score,
        "query.weight": 0.5 + uniform(ROWS),
        "query.source": torch.full((ROWS,), stable_id("faq")),
        "query.teacher": teacher,
        "positive.id": positive_id,
        "positive.cluster": cluster,
        "negative.id": negative_id,
        "negative.cluster": torch.where(torch.arange(total) % 7 == 0, 77, -1),
        "negative.score": negative_score,
        "negative.teacher": negative_teacher,
        "query.guide": guide[:ROWS],
        "positive.guide": guide[ROWS : 2 * ROWS],
        "negative.guide": guide[2 * ROWS :],
    }
    return table, row, beside


def tokens_of(texts: list[int]) -> list[list[int]]:
    """Token ids of texts, which are numbers: of other lengths, and none of another text's ids."""
    return [[text] * (1 + text % 5) for text in texts]


def before(texts: list[int]) -> torch.Tensor:
    """What a base, which no step changes, makes of texts."""
    weight = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return torch.tanh(data()[0][texts] @ weight)


def beside(weighted: bool) -> dict[str, torch.Tensor]:
    return {name: value for name, value in data()[2].items() if weighted or name != "query.weight"}


@cache
def wrapped(learned: tuple[tuple[str, float], ...]):
    """The model and its DDP, which takes a dozen collectives to make: one for all losses with the same scalars."""
    module = Tiny(data()[0], dict(learned))
    return module, DistributedDataParallel(module) if world()[1] > 1 else module


def gradient(name: str, mode: str, sizes: list[int], weighted: bool):
    """This rank's part of a step under DDP: loss share and the gradient after the all-reduce."""
    loss = LOSSES[name]
    module, model = wrapped(tuple(loss.learnable().items()))
    module.zero_grad()
    passes = (
        PlainPass(model, module.scalars) if mode == "plain" else GradientCache(model, model, module.scalars, budget=9)
    )
    share = loss(embed(passes, sizes, weighted), passes.scalars)
    passes.backward(share.loss * world()[1])
    flat = torch.cat([parameter.grad.reshape(-1).clone() for parameter in module.parameters()])
    return {"loss": share.loss.detach(), "grad": flat, "report": {k: v.detach() for k, v in share.report.items()}}


def embed(encode, sizes: list[int], weighted: bool) -> Batch:
    """The global batch, of which this rank encodes its rows."""
    _, owner, _ = data()
    rank = world()[0]
    start = sum(sizes[:rank])
    mine = torch.arange(start, start + sizes[rank])
    given = torch.isin(owner, mine)
    texts = torch.cat([mine, ROWS + mine, 2 * ROWS + given.nonzero()[:, 0]]).tolist()
    vectors = encode(tokens_of(texts), [0] * len(texts))
    counts = [len(mine), len(mine), int(given.sum())]
    ids = {"negative.row": owner[given] - start}
    for field, value in beside(weighted).items():
        own = value[given] if field.startswith("negative") else value[mine]
        ids[field] = own.contiguous().view(torch.int64) if field in FLOATS | FLOAT16 else own
    every = gather(dict(zip(("query", "positive", "negative"), vectors.split(counts), strict=True)), ids)
    return Batch.from_gathered(every, step=STEP, progress=PROGRESS, base=before(texts))


def masks(sizes: list[int]):
    """Which places of its own rows a rank masks."""
    with torch.no_grad():
        batch = embed(wrapped(())[0], sizes, weighted=False)
    return document_mask(batch, MaskConfig()), query_mask(batch, MaskConfig())


def doubted(sizes: list[int]):
    """Which places of its own rows a rank's guide doubts, a mask for each direction, in pieces of 3 x 4."""
    with torch.no_grad():
        batch = embed(wrapped(())[0], sizes, weighted=False)
    limit = ScoreFilter(batch, MaskConfig(guide_margin=MARGIN))

    def piece(direction: str, row: int, column: int) -> torch.Tensor:
        wide = batch.size + len(batch.negative) if direction.endswith("document") else batch.size
        rows, columns = slice(row, min(row + 3, len(batch.row_numbers))), slice(column, min(column + 4, wide))
        nothing = torch.zeros(rows.stop - row, columns.stop - column)
        sides = {"documents": direction.endswith("document"), "of_query": direction.startswith("query")}
        return limit(rows, columns, nothing, **sides)

    def whole(direction: str) -> torch.Tensor:
        wide = batch.size + len(batch.negative) if direction.endswith("document") else batch.size
        strips = [
            torch.cat([piece(direction, row, column) for column in range(0, wide, 4)], dim=1)
            for row in range(0, len(batch.row_numbers), 3)
        ]
        return torch.cat([torch.zeros(0, wide, dtype=torch.bool), *strips])

    return [whole(direction) for direction in EVERY]


@cache
def truth(name: str, weighted: bool):
    """The same step in one process, without gather, chunks or tiles."""
    module = Tiny(data()[0], untiled(SETTINGS[name]).learnable())
    return one_process(module, name, weighted)


def one_process(module: nn.Module, name: str, weighted: bool):
    """A step of a module on all rows, without gather, chunks or tiles: the loss share and the flat gradient."""
    table, owner, _ = data()
    texts = list(range(len(table)))
    vectors = module(tokens_of(texts), [0] * len(texts))
    query, positive, negative = vectors.split([ROWS, ROWS, len(owner)])
    known = {GATHERED[field]: value for field, value in beside(weighted).items()}
    whole = slice(0, ROWS), slice(0, len(owner))
    batch = Batch(query, positive, negative, owner, *whole, **known, base=before(texts), step=STEP, progress=PROGRESS)
    share = untiled(SETTINGS[name])(batch, dict(module.scalars.items()))
    share.loss.backward()
    return share, torch.cat(
        [parameter.grad.reshape(-1) for parameter in module.parameters() if parameter.requires_grad]
    )


def untiled(settings: dict):
    without = {key: value for key, value in settings.items() if key != "tile"}
    for nested in ("loss", "others"):
        if isinstance(without.get(nested), dict):
            without[nested] = {key: value for key, value in without[nested].items() if key != "tile"}
    if "sources" in without:
        without["sources"] = {
            name: {key: value for key, value in loss.items() if key != "tile"}
            for name, loss in without["sources"].items()
        }
    return TypeAdapter(AnyLoss).validate_python(without)


def cases(size: int):
    """Every loss plain on all splits, and cached on the unequal one; alone there is but one split."""
    plain = ["equal", "unequal", "none on a rank"][: None if size > 1 else 1]
    ways = [("plain", split) for split in plain] + [("cached", "unequal")]
    return [(name, mode, split) for name in LOSSES for mode, split in ways]


def every_step(size: int):
    steps = [gradient(name, mode, SPLITS[split][size], split != "equal") for name, mode, split in cases(size)]
    return {
        "steps": steps,
        "masks": {split: masks(SPLITS[split][size]) for split in SPLITS},
        "doubted": {split: doubted(SPLITS[split][size]) for split in SPLITS},
    }


@cache
def ran(size: int):
    """What every rank found: one spawn for all losses."""
    return run_ranks(size, every_step, size) if size > 1 else [every_step(1)]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_planted_duplicates_are_masked_and_nothing_else(size):
    known = {name: value.tolist() for name, value in data()[2].items()}
    owner = data()[1].tolist()
    documents = known["positive.id"] + known["negative.id"]
    clusters = known["positive.cluster"] + known["negative.cluster"]
    right = [{*ids, own} - {-1} for ids, own in zip(known["query.relevant"], known["positive.id"], strict=True)]
    near = [{*ids} - {-1} for ids in known["query.relevant_cluster"]]
    for_documents, for_queries = torch.zeros(ROWS, len(documents)), torch.zeros(ROWS, ROWS)
    for row in range(ROWS):
        for place, document in enumerate(documents):
            sibling = place < ROWS and known["query.id"][place] == known["query.id"][row]
            graded = place >= ROWS and owner[place - ROWS] == row and known["negative.score"][place - ROWS] > 0
            known_right = document in right[row] or clusters[place] in near[row]
            for_documents[row, place] = place != row and (sibling or graded or known_right)
            if place < ROWS:
                asked = known["positive.id"][row] in right[place] or known["positive.cluster"][row] in near[place]
                for_queries[row, place] = place != row and (sibling or asked)
    assert 10 < for_documents.sum() < 40
    for split in SPLITS:
        told = [rank["masks"][split] for rank in ran(size)]
        assert torch.equal(torch.cat([one for one, _ in told]), for_documents.bool())
        assert torch.equal(torch.cat([two for _, two in told]), for_queries.bool())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_guide_doubts_what_it_finds_as_near_as_the_positive_and_nothing_else(size):
    """Every place of every direction by a loop; planted: the same text for the guide under other ids, and gaps."""
    guide = {name: data()[2][f"{name}.guide"].double() for name in ("query", "positive", "negative")}
    guide = {name: value / value.norm(dim=1, keepdim=True) for name, value in guide.items()}
    documents = torch.cat([guide["positive"], guide["negative"]])
    expected = []
    for direction in EVERY:
        left = guide["query" if direction.startswith("query") else "positive"]
        right = documents if direction.endswith("document") else guide["query"]
        out = torch.zeros(ROWS, len(right), dtype=torch.bool)
        for row in range(ROWS):
            limit = float(guide["query"][row] @ guide["positive"][row]) - MARGIN
            for place in range(len(right)):
                out[row, place] = place != row and float(left[row] @ right[place]) > limit
        expected.append(out)
    first = expected[0]
    assert first[2, 9] and first[9, 2] and first[2, ROWS + 6] and first[9, ROWS + 6], "the planted texts"
    assert not first[3].any() and not first[5].any() and not first[:, 5].any(), "gaps doubt nothing"
    assert 0.05 < first.double().mean() < 0.6
    for split in SPLITS:
        for number, out in enumerate(expected):
            assert torch.equal(torch.cat([rank["doubted"][split][number] for rank in ran(size)]), out)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_give_the_one_process_gradient(size):
    found = [rank["steps"] for rank in ran(size)]
    assert [len(rank) for rank in found] == [len(cases(size))] * size
    for case, ranks in zip(cases(size), zip(*found, strict=True), strict=True):
        share, expected = truth(case[0], case[2] != "equal")
        assert expected.norm() > 1e-3, f"{case}: no gradient to compare"
        total = sum(rank["loss"] for rank in ranks)
        torch.testing.assert_close(total, share.loss.detach(), rtol=1e-10, atol=1e-14, msg=str(case))
        for key, value in share.report.items():
            told = sum(rank["report"][key] for rank in ranks)
            torch.testing.assert_close(told.double(), value.double(), rtol=1e-6, atol=1e-7, msg=f"{case} {key}")
        for rank in ranks:
            assert rank["grad"].norm() / expected.norm() == pytest.approx(1.0, abs=1e-6), case
            assert torch.cosine_similarity(rank["grad"], expected, dim=0) >= 1 - 1e-10, case


def test_the_matrix_has_every_loss():
    union, _ = get_args(AnyLoss)
    assert {settings["type"] for settings in SETTINGS.values()} == {
        one.model_fields["type"].default for one in _flat(union)
    }


def _flat(union):
    return [
        one for part in get_args(union) for one in (_flat(part) if get_args(part) else [part]) if isinstance(one, type)
    ]


def refused(columns):
    try:
        gather(columns)
    except RuntimeError as error:
        return str(error)
    return "no error"


def out_of_step():
    """What two ranks say whose columns differ in number, and then in width."""
    rank = world()[0]
    more = {"positive": torch.zeros(2, 4)} if rank == 1 else {}
    return refused({"query": torch.zeros(2, 4), **more}), refused({"query": torch.zeros(2, 4 + rank)})


def test_ranks_out_of_step_are_named_not_hung():
    columns, width = zip(*run_ranks(2, out_of_step), strict=True)
    assert set(columns) == {"gather: rank 1 has columns 2, rank 0 has 1: ranks are out of step"}
    assert set(width) == {"gather: rank 1 has dim 5, rank 0 has 4: ranks are out of step"}
