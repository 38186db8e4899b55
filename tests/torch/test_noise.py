"""Noise-aware training in PyTorch: it pays on the chip, gradients pass straight through, and nothing stays on the module."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import cimc
from cimc.errors import CimcError

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
nn = torch.nn
SIGMA = "device.programming.sigma_us"


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))


def task(seed: int, count: int) -> tuple[Any, Any]:
    """Four classes of inputs of 0 to 1 about centres of their own."""
    centres = torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (count,), generator=random)
    return (centres[y] + 0.35 * torch.randn(count, 16, generator=random)).clamp(0, 1), y


def train(module: Any, steps: int, seed: int) -> None:
    x, y = task(1, 512)
    random, optimizer = torch.Generator().manual_seed(seed), torch.optim.Adam(module.parameters(), 5e-3)
    module.train()
    for _ in range(steps):
        chosen = torch.randint(0, len(x), (64,), generator=random)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x[chosen]), y[chosen]).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def compiled() -> Callable[..., cimc.Program]:
    """Compiles a `network`; all have one graph, so that PyTorch exports it once."""
    x = task(1, 512)[0]
    model, names = cimc.torch.to_onnx(network(0), x[:2])
    proto = ir.to_proto(model)

    def compile_it(module: Any, **settings: Any) -> cimc.Program:
        state = {name: value.numpy() for name, value in module.state_dict().items()}
        for tensor in proto.graph.initializer:
            if tensor.name in state:
                tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name], tensor.name))
        return cimc.compile(proto, "bulk-rram", calibration={names[0]: x.numpy()}, settings=settings or None)

    return compile_it


def test_it_pays_on_the_chip(compiled: Callable[..., cimc.Program]) -> None:
    """Of five trainings from one start each, the mean over dice is better by more than the noise of that mean explains."""
    x, y = (value.numpy() for value in task(2, 300))
    gains = []
    for seed in range(5):
        module = network(seed)
        train(module, 100, seed)
        plain = deepcopy(module)
        train(plain, 100, seed)
        with cimc.torch.noise_aware(module, compiled(module, **{SIGMA: 20.0}), seed=seed) as block:
            train(module, 100, seed)
        assert block.layers == ("0", "2", "4")
        found = [cimc.evaluate(compiled(m, **{SIGMA: 20.0}), x, y, chips=10).accuracy.mean() for m in (plain, module)]
        gains.append(found[1] - found[0])
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert np.mean(gains) > 0


def test_nothing_is_left_on_the_module(compiled: Callable[..., cimc.Program]) -> None:
    module = network(0)
    program, plain = compiled(module), deepcopy(module)
    before = [dict(vars(part)) for part in module.modules()]
    parameters = [id(value) for value in module.parameters()]
    with cimc.torch.noise_aware(module, program):
        assert list(module.state_dict()) == list(plain.state_dict())
        train(module, 2, 0)
    assert [sorted(vars(part)) for part in module.modules()] == [sorted(own) for own in before]
    assert [id(value) for value in module.parameters()] == parameters
    with pytest.raises(ZeroDivisionError), cimc.torch.noise_aware(module, program):
        1 / 0  # noqa: B018
    assert all("forward" not in vars(part) for part in module.modules())
    plain.load_state_dict(module.state_dict())
    x = task(3, 8)[0]
    assert torch.equal(plain(x), module(x))


def test_evaluation_mode_is_as_always(compiled: Callable[..., cimc.Program]) -> None:
    module, x = network(1), task(3, 8)[0]
    wanted = module.eval()(x)
    with cimc.torch.noise_aware(module, compiled(module)):
        assert torch.equal(module.eval()(x), wanted)
        assert not torch.equal(module.train()(x), wanted)


def test_a_seed_draws_the_same_errors(compiled: Callable[..., cimc.Program]) -> None:
    module, x = network(1), task(3, 8)[0]
    program, found = compiled(module), []
    for seed in (5, 5, 6):
        with cimc.torch.noise_aware(module, program, seed=seed):
            found.append([module(x).detach() for _ in range(2)])
    assert all(torch.equal(one, other) for one, other in zip(found[0], found[1], strict=True))
    assert not torch.equal(found[0][0], found[0][1])  # another pass is another die
    assert not torch.equal(found[0][0], found[2][0])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(6, 5), (4, 6)),
        (lambda: nn.Linear(6, 5, bias=False), (4, 3, 6)),
        (lambda: nn.Conv1d(2, 5, 3), (4, 2, 7)),
        (lambda: nn.Conv2d(2, 5, 3, 2, 1, padding_mode="reflect"), (4, 2, 6, 6)),
        (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 4, 6, 6)),
        (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3)),
    ],
)
def test_gradients_pass_straight_through(layer: Any, shape: tuple[int, ...]) -> None:
    """Of an affine function of its output a layer's gradients are those of the weights and inputs that it computed with."""
    torch.manual_seed(0)
    part, x = layer(), torch.rand(*shape, requires_grad=True)
    module = nn.Sequential(part)
    quiet = {SIGMA: 0.0, "device.read_sigma_us": 0.0}  # rounding and clipping are left
    program = cimc.torch.compile(module, x.detach(), "bulk-rram", calibration=x.detach(), settings=quiet)
    with cimc.torch.noise_aware(module, program):
        y = module(x)
        slope = torch.randn_like(y)
        (y * slope).sum().backward()
    with torch.no_grad():
        exact = part(x)
        assert 0 < (y - exact).square().mean() < 1e-2 * exact.square().mean()
    copy, own = deepcopy(part), x.detach().clone().requires_grad_()
    copy.zero_grad()
    (copy(own) * slope).sum().backward()
    # rounding alone would give no gradient at all
    for found, wanted in ((part.weight.grad, copy.weight.grad), (x.grad, own.grad)):
        assert (found - wanted).norm() < 0.05 * wanted.norm()
    if part.bias is not None:
        torch.testing.assert_close(part.bias.grad, copy.bias.grad)


def test_errors_are_those_of_the_forecast() -> None:
    """Power of the error of one layer's product over many passes, against the closed form, within sampling error."""
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(64, 32, bias=False)), torch.rand(64, 64)
    program = cimc.torch.compile(module, x, "bulk-rram", calibration=x)
    assert program.expected is not None
    with torch.no_grad(), cimc.torch.noise_aware(module, program):
        exact = module.eval()(x)
        module.train()
        errors = torch.stack([(module(x) - exact).square().mean() for _ in range(40)])
    found = 10 * np.log10(float(exact.square().mean() / errors.mean()))
    assert found == pytest.approx(program.expected.layers[0].sqnr_db, abs=0.5)


def test_what_has_no_errors_is_told(compiled: Callable[..., cimc.Program]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.fc = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: Any) -> Any:
            return self.fc(self.cell(x)[0][:, -1])

    x = torch.rand(4, 4, 5)
    module = Recurrent()
    block = cimc.torch.noise_aware(module, cimc.torch.compile(module, x, "bulk-rram"))
    assert block.layers == ("fc",)
    assert len(block.left_out) == 2  # inputs and recurrent values
    with pytest.warns(UserWarning, match=f"no errors in training: {', '.join(block.left_out)}"), block:
        module(x)
    with pytest.raises(CimcError, match="no forecast"):
        cimc.torch.noise_aware(module, cimc.torch.compile(module, x, "ideal"))
    with pytest.raises(CimcError, match="no Linear or Conv"):
        cimc.torch.noise_aware(nn.Sequential(nn.Linear(2, 2)), cimc.torch.compile(module, x, "bulk-rram"))
    one = network(0)
    program = compiled(one)
    with cimc.torch.noise_aware(one, program), pytest.raises(CimcError, match="already"):
        cimc.torch.noise_aware(one, program).__enter__()
