"""The cheap dropout is dropout: share, mean, gradient, replay; and it is in every place of a model."""

import pytest
import torch
from torch import nn

from pipeline.encoder.cpu_dropout import CpuDropout, dropout, use_cpu_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_stays(share, dtype):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(401, 1001, dtype=dtype), share).double()
    assert abs((dropped == 0).double().mean().item() - share) < 0.003
    assert dropped.unique().numel() == 2
    assert abs(dropped.max().item() * (1 - share) - 1) < (0.004 if dtype == torch.bfloat16 else 1e-4)


def test_values_are_dropped_independently():
    """The four decisions of one random number agree no more often than those of others."""
    torch.manual_seed(1)
    signs = (dropout(torch.ones(1 << 20), 0.5) != 0).float() - 0.5
    for lag in (1, 2, 3, 4, 5):
        assert abs((signs[lag:] * signs[:-lag]).mean().item()) < 0.001


def test_the_gradient_goes_where_the_values_went_and_the_state_replays_them():
    values = torch.randn(7, 33, requires_grad=True)
    state = torch.get_rng_state()
    dropped = dropout(values, 0.3)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad * values.detach(), dropped.detach())
    torch.set_rng_state(state)
    assert torch.equal(dropout(values, 0.3), dropped)


def test_nothing_is_dropped_where_nothing_shall_be():
    values = torch.randn(3, 5)
    assert dropout(values, 0.0) is values
    assert CpuDropout(0.5).eval()(values) is values


def test_every_dropout_of_a_model_is_replaced():
    class Odd(nn.Dropout):
        pass

    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.4)), Odd(0.1)).eval()
    use_cpu_dropout(model)
    assert [(type(m), m.p, m.training) for m in model.modules() if isinstance(m, nn.Dropout)] == [
        (CpuDropout, 0.2, False),
        (CpuDropout, 0.4, False),
        (Odd, 0.1, False),
    ]
