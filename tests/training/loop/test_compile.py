"""A compiled step gives the gradient of an eager one, dropout included; what cannot be compiled is said."""

import pytest
import torch

from pipeline.core.errors import UserError
from tests.support.loop import make_loop
from training.loop.compile import compile_transformer, explain_failures

pytestmark = pytest.mark.compiled


@pytest.fixture(autouse=True)
def compiler():
    builder = pytest.importorskip("torch._inductor.cpp_builder")
    try:
        builder.get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"no C++ compiler, which torch.compile needs on a CPU: {error}")
    yield
    torch._dynamo.reset()


def gradient(**config) -> torch.Tensor:
    """Gradient of a step whose chunks come with padding and without."""
    loop = make_loop(**config)
    loop.module.train()
    work = loop.load_batch(loop.feed.first)
    torch.manual_seed(3)
    loop.backward(work, 0)
    return torch.cat([p.grad.reshape(-1).double() for p in loop.module.parameters() if p.grad is not None])


def test_the_gradient_is_the_same_and_nothing_is_renamed():
    """With dropout and the gradient cache, which encodes without gradient, then again with."""
    eager = gradient(cache_tokens=64)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = gradient(cache_tokens=64, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before, "nothing was compiled"
    assert compiled.norm() / eager.norm() == pytest.approx(1.0, abs=1e-5)
    assert torch.cosine_similarity(compiled, eager, dim=0) >= 1 - 1e-8
    assert list(make_loop(compile=True).module.state_dict()) == list(make_loop().module.state_dict())


def test_what_cannot_be_compiled_is_an_error_not_eager():
    class Breaks(torch.nn.Module):
        def forward(self, x):
            return x * float(x.sum().item() > 0 and len(str(x)))

    module = Breaks()
    compile_transformer(module, "cpu")
    with pytest.raises(UserError, match=r"loop\.compile: this model cannot be compiled \("), explain_failures():
        module(torch.ones(3))


def test_a_missing_compiler_is_named(monkeypatch):
    import torch._inductor.config as config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    from torch._inductor import cpp_builder

    for cached in (cpp_builder.get_cpp_compiler, cpp_builder.get_compiler_version_info):
        getattr(cached, "cache_clear", lambda: None)()
    with pytest.raises(UserError, match=r"loop\.compile: on a CPU needs a C\+\+ compiler; install g\+\+"):
        compile_transformer(torch.nn.Linear(1, 1), "cpu")
