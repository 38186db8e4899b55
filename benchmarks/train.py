"""Images per second of training LeNet-5 (6-16-120-84-10) on MNIST: our simulated chip, and plain PyTorch in FP32 on the CPU.

One process run, batch 64, AdamW, epochs of random batches. Ours has the chip's DAC, ADC, read noise and writes in every step,
looks at the data before the first of them and chooses ADC ranges after each epoch. PyTorch and aihwkit (its mixed-precision
preset, one epoch) are measured where they are installed, else null. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import cimc
from cimc.datasets import mnist

BATCH = 64
TEXT = """<ir_version: 8, opset_import: ["": 17]> lenet5 (float[N, 1, 28, 28] input) => (float[N, 10] logits) {
    c1 = Conv <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (input, w1, b1)
    r1 = Relu (c1)  p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)
    c2 = Conv <kernel_shape = [5, 5]> (p1, w2, b2)
    r2 = Relu (c2)  p2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
    f = Flatten (p2)
    d3 = Gemm <transB = 1> (f, w3, b3)  r3 = Relu (d3)
    d4 = Gemm <transB = 1> (r3, w4, b4)  r4 = Relu (d4)
    logits = Gemm <transB = 1> (r4, w5, b5)
}"""
SHAPES = {"1": (6, 1, 5, 5), "2": (16, 6, 5, 5), "3": (120, 400), "4": (84, 120), "5": (10, 84)}


def model() -> onnx.ModelProto:
    """Freshly initialised."""
    random, proto = np.random.default_rng(0), onnx.parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        bound = 1 / np.sqrt(np.prod(shape[1:]))
        for kind, size in (("w", shape), ("b", shape[:1])):
            array = random.uniform(-bound, bound, size).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{kind}{name}"))
    return proto


@dataclass
class Runner:
    """What trains some epochs when called, and what else there is to say of it."""

    fit: Callable[[int], object]
    said: Callable[[], dict[str, Any]]
    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    def run(self, epochs: int) -> None:
        """One run, after a rest in which the threads of the one before fall asleep."""
        time.sleep(0.5)
        begin, cpu = time.perf_counter(), time.process_time()
        self.fit(epochs)
        self.seconds.append(time.perf_counter() - begin)
        self.busy.append(time.process_time() - cpu)

    def result(self, steps: int) -> dict[str, Any]:
        """Images per second, of the best and of the median run; CPU time of a step, which a busy machine changes less."""
        images, median = steps * BATCH, float(np.median(self.seconds))
        return {
            "images_per_second": images / min(self.seconds),
            "median": images / median,
            "cpu_ms_a_step": 1e3 * min(self.busy) / steps,
            **self.said(),
        }


def ours(x: NDArray[Any], y: NDArray[Any], steps: int) -> Runner:
    """The chip."""
    program = cimc.compile(model(), target="bulk-rram", calibration={"input": x[:256]})
    trainer = cimc.Trainer(cimc.Chip(program), batch_size=BATCH, schedule="constant", init="devices")
    trainer.fit(x, y, epochs=1, steps_per_epoch=steps)  # compiles kernels, and gets over the many writes at the start
    return Runner(
        lambda epochs: trainer.fit(x, y, epochs=epochs, steps_per_epoch=steps),
        lambda: {"accuracy": trainer.evaluate(x[-5000:], y[-5000:])["accuracy"]},
    )


def pytorch(x: NDArray[Any], y: NDArray[Any], steps: int) -> Runner | None:
    """Plain PyTorch in FP32, all threads it takes by default."""
    try:
        import torch
        from torch import nn
    except ImportError:
        return None
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3)
    return Runner(_torch_loop(torch, net, optimizer, x, y, steps), lambda: {"version": torch.__version__})


def aihwkit(x: NDArray[Any], y: NDArray[Any], steps: int) -> Runner | None:
    """IBM's simulator with its mixed-precision preset, whose optimizer is its own SGD."""
    try:
        import torch
        from aihwkit.nn import AnalogConv2d, AnalogLinear, AnalogSequential
        from aihwkit.optim import AnalogSGD
        from aihwkit.simulator.presets import MixedPrecisionReRamESPreset
        from aihwkit.version import __version__
        from torch import nn
    except ImportError:
        return None
    how = {"rpu_config": MixedPrecisionReRamESPreset()}
    net = AnalogSequential(
        AnalogConv2d(1, 6, 5, padding=2, **how), nn.ReLU(), nn.MaxPool2d(2), AnalogConv2d(6, 16, 5, **how), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), AnalogLinear(400, 120, **how), nn.ReLU(), AnalogLinear(120, 84, **how), nn.ReLU(),
        AnalogLinear(84, 10, **how),
    )  # fmt: skip
    optimizer = AnalogSGD(net.parameters(), lr=0.05)
    optimizer.regroup_param_groups(net)
    return Runner(_torch_loop(torch, net, optimizer, x, y, steps), lambda: {"version": __version__})


def _torch_loop(torch: Any, net: Any, optimizer: Any, x: NDArray[Any], y: NDArray[Any], steps: int) -> Callable[[int], None]:
    images, labels = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
    loss = torch.nn.CrossEntropyLoss()

    def fit(epochs: int) -> None:
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for n in range(steps):
                chosen = order[n * BATCH : (n + 1) * BATCH]
                optimizer.zero_grad()
                loss(net(images[chosen]), labels[chosen]).backward()
                optimizer.step()

    fit(1)
    return fit


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="batches an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="of a run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turns")
    options = parser.parse_args()
    data = mnist()
    x, y = data["x_train"][:, None].astype(np.float32) / np.float32(255), data["y_train"]
    given = (x, y, options.steps)
    own, torch, slow = ours(*given), pytorch(*given), aihwkit(*given)
    # In turns, so that a machine that others use too slows all of them alike.
    for _ in range(options.repeats):
        for runner in (own, torch):
            if runner is not None:
                runner.run(options.epochs)
    if slow is not None:
        slow.run(1)
    steps = options.epochs * options.steps
    found: dict[str, Any] = {
        "cimc": own.result(steps),
        "pytorch_fp32": torch and torch.result(steps),
        "aihwkit_mixed_precision": slow and slow.result(options.steps),
    }
    rates = {name: None if row is None else row["images_per_second"] for name, row in found.items()}
    result = {
        "batch": BATCH,
        "steps": options.steps,
        "epochs": options.epochs,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        **found,
        "times_as_fast_as": {name: rate and rates["cimc"] / rate for name, rate in rates.items() if name != "cimc"},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
