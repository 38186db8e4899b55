"""Modules of PyTorch through cimc: compiled, trained, loaded back, run as a module; PyTorch is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import CimcError, ModelError

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
nn = torch.nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))) + self.short(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.fc = Block(1, 4), nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.block(x).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, cell: type) -> None:
        super().__init__()
        self.cell, self.fc = cell(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.cell(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.fc = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.1), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.layer(x).mean(1))


class UNet(nn.Module):
    """To one class for all pixels: a path down, a path up and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)
        self.last = nn.Conv2d(5, 3, 1)

    def forward(self, x: Any) -> Any:
        return self.last(torch.cat([self.up(torch.relu(self.down(x))), x], 1)).mean((2, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(7, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 7, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Any) -> Any:
        return self.out(torch.tanh(self.hidden(self.table(x))))


def normed() -> Any:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3))


#: Module and the shape of one of its inputs.
MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
    "resnet": (ResNet, (1, 8, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM), (4, 5)),
    "gru": (lambda: Recurrent(nn.GRU), (4, 5)),
    "transformer": (Encoder, (4, 8)),
    "unet": (UNet, (1, 8, 8)),
    "weight norm": (normed, (6,)),
}


def made(name: str) -> tuple[Any, Any]:
    """A module with weights of a seed, in training mode, and a batch of inputs."""
    torch.manual_seed(3)
    build, shape = MODULES[name]
    return build(), torch.randn(6, *shape)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_trains_on_the_chip_and_takes_its_weights_back(name: str) -> None:
    module, x = made(name)
    program = cimc.torch.compile(module, x[:1], "ideal")
    assert module.training
    trainer = cimc.Trainer(cimc.Chip(program), loss="mse", optimizer="sgd", lr=0.01, batch_size=6)
    with torch.no_grad():
        y = module.eval()(x).numpy() + 1
    begin = {key: value.clone() for key, value in module.state_dict().items()}
    for _ in range(3):
        trainer.step(x.numpy(), y)
    written = cimc.torch.load_back(module, trainer)
    assert set(written) == {key for key, value in begin.items() if value.is_floating_point()}
    assert all((module.state_dict()[key] != begin[key]).any() for key, _ in module.named_parameters())
    with torch.no_grad():
        there = module.eval()(x).numpy()
    here = cimc.Chip(trainer.program()).run({program.inputs[0].name: x.numpy()})
    np.testing.assert_allclose(next(iter(here.values())), there, rtol=1e-4, atol=1e-5)
    assert np.square(there - y).mean() < np.square(y - 1 - y).mean()  # it has learnt


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_trained_program_is_loaded_back_too(name: str, tmp_path: Any) -> None:
    module, x = made(name)
    other = deepcopy(module)
    trainer = cimc.Trainer(cimc.Chip(cimc.torch.compile(module, x, "ideal")), loss="mse", batch_size=6)
    trainer.step(x.numpy(), np.ones((6, 3), np.float32))
    trainer.program().save(tmp_path / "t.cim")
    cimc.torch.load_back(module, trainer)
    cimc.torch.load_back(other, cimc.load(tmp_path / "t.cim"))
    for key, value in module.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key].numpy(), value.numpy())


def test_tied_weights_stay_tied() -> None:
    torch.manual_seed(0)
    module, x, y = Tied(), torch.randint(0, 7, (6, 4)), torch.randint(0, 7, (6, 4))
    trainer = cimc.Trainer(cimc.Chip(cimc.torch.compile(module, x, "ideal")), optimizer="sgd", lr=0.1, batch_size=6)
    trainer.step(x.numpy(), y.numpy())
    twin = deepcopy(module)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    nn.functional.cross_entropy(twin(x).flatten(0, 1), y.flatten()).backward()
    optimizer.step()
    cimc.torch.load_back(module, trainer)
    assert module.out.weight is module.table.weight
    for (key, here), (_, there) in zip(module.named_parameters(), twin.named_parameters(), strict=True):
        np.testing.assert_allclose(here.detach().numpy(), there.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=key)


def test_a_value_without_a_place_is_refused_and_nothing_is_written() -> None:
    module, x = made("mlp")
    trainer = cimc.Trainer(cimc.Chip(cimc.torch.compile(module, x, "ideal")), loss="mse", batch_size=6)
    trainer.step(x.numpy(), np.ones((6, 3), np.float32))
    longer = nn.Sequential(*deepcopy(module), nn.Linear(3, 3))
    wider = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    for wrong, said in ((longer, "no value for 3.bias, 3.weight"), (wider, "is"), (nn.Linear(6, 8), "has no")):
        before = deepcopy(wrong.state_dict())
        with pytest.raises(CimcError, match=said):
            cimc.torch.load_back(wrong, trainer)
        assert all((wrong.state_dict()[key] == value).all() for key, value in before.items())
    with pytest.raises(CimcError, match="give a trainer"):
        cimc.torch.load_back(module, "trained.cim")


def test_a_chip_is_a_module() -> None:
    module, x = made("mlp")
    chip = cimc.Chip(cimc.torch.compile(module, x, "bulk-rram", calibration=x), 2)
    analog = cimc.torch.AnalogModule(chip)
    twin = cimc.Chip(chip.program, 2)
    name = chip.program.inputs[0].name
    for _ in range(2):  # the noise goes on
        np.testing.assert_array_equal(analog(x).numpy(), next(iter(twin.run({name: x.numpy()}).values())))
    assert not list(analog.parameters())
    assert "target=bulk-rram" in repr(analog)
    with pytest.raises(CimcError, match="asks for a gradient"):
        analog(x.clone().requires_grad_())
    with pytest.raises(CimcError, match="2 inputs"):
        analog(x, x)
    with pytest.raises(CimcError, match="of type str"):
        cimc.torch.AnalogModule("m.cim")


def test_inputs_by_name_and_a_fixed_batch() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, left: Any, right: Any) -> Any:
            return self.fc(left) * right

    module, left, right = Two(), torch.randn(3, 4), torch.randn(3, 2)
    for example in ((left, right), {"right": right, "left": left}):
        program = cimc.torch.compile(module, example, "ideal")
        assert [spec.name for spec in program.inputs] == ["left", "right"]
        y = cimc.Chip(program).run({"left": left.numpy()[:2], "right": right.numpy()[:2]})
        np.testing.assert_allclose(next(iter(y.values())), module(left, right).detach().numpy()[:2], rtol=1e-5)
    fixed = cimc.torch.compile(module, (left, right), "ideal", open_batch=False)
    assert fixed.inputs[0].shape == (3, 4)
    with pytest.raises(CimcError, match="no input middle"):
        cimc.torch.compile(module, {"middle": left}, "ideal")
    with pytest.raises(CimcError, match="3 inputs for left, right"):
        cimc.torch.compile(module, (left, right, right), "ideal")
    with pytest.raises(CimcError, match="input left is of type list"):
        cimc.torch.compile(module, {"left": [1.0]}, "ideal")
    with pytest.raises(CimcError, match=r"give a torch\.nn\.Module"):
        cimc.torch.compile("m.pt", left, "ideal")


def test_what_cannot_be_exported_is_said_in_words() -> None:
    class Odd(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(ModelError, match="PyTorch cannot export it") as found:
        cimc.torch.compile(Odd(), torch.ones(2, 3), "ideal")
    assert "\n" not in str(found.value.what)


def test_dropout_is_kept_for_training_on_demand() -> None:
    module = nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    x = torch.randn(4, 6)
    kinds = [{row["op_type"] for row in cimc.torch.compile(module, x, "ideal", dropout=d).placement()} for d in (False, True)]
    assert ["Dropout" in found for found in kinds] == [False, True]
    assert module.training


def test_a_loader_feeds_training() -> None:
    module, x = made("mlp")
    set_ = torch.utils.data.TensorDataset(x.repeat(4, 1), torch.arange(24) % 3)
    loader = torch.utils.data.DataLoader(set_, batch_size=6)
    trainer = cimc.Trainer(cimc.Chip(cimc.torch.compile(module, x, "ideal")), batch_size=6)
    history = trainer.fit(loader, epochs=2)
    assert len(history.rows) == 2


def test_a_loader_of_dicts_feeds_training() -> None:
    """As tokenizers and Hugging Face's trainers have them."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(11, 6), nn.Linear(6, 3)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            mask = attention_mask.unsqueeze(-1).float()
            return self.out((self.table(input_ids) * mask).sum(1) / mask.sum(1))

    torch.manual_seed(0)
    ids, mask, labels = torch.randint(0, 11, (12, 5)), torch.ones(12, 5, dtype=torch.long), torch.randint(0, 3, (12,))
    rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
    program = cimc.torch.compile(Bag(), {"input_ids": ids, "attention_mask": mask}, "bulk-rram")
    weights = []
    for data, y in (
        (torch.utils.data.DataLoader(rows, batch_size=12), None),
        ([({"input_ids": ids.numpy(), "attention_mask": mask.numpy()}, labels.numpy())], None),
    ):
        trainer = cimc.Trainer(cimc.Chip(program), init="weights", batch_size=12)
        trainer.fit(data, y, epochs=2)
        weights.append(trainer.weights()["out.weight"])
    np.testing.assert_array_equal(*weights)


def test_another_number_of_outputs_is_told() -> None:
    """The exported model has outputs that the module's forward did not give when it was run, or the reverse."""

    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return (self.fc(x), x) if torch.compiler.is_exporting() else self.fc(x)

    with pytest.raises(ModelError, match=r"the exported model has 2 outputs, the module 1"):
        cimc.torch.compile(Changing(), torch.randn(3, 4), "ideal")
