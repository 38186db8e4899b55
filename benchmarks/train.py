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


def rate(fit: Callable[[], object], images: int, repeats: int) -> dict[str, float]:
    """Images per second: the best of some runs, and the median; and the CPU time of a step, which a busy machine changes less."""
    seconds, busy = [], []
    for _ in range(repeats):
        begin, cpu = time.perf_counter(), time.process_time()
        fit()
        seconds.append(time.perf_counter() - begin)
        busy.append(time.process_time() - cpu)
    cpu_ms = 1e3 * min(busy) / (images / BATCH)
    return {"images_per_second": images / min(seconds), "median": images / float(np.median(seconds)), "cpu_ms_a_step": cpu_ms}


def ours(x: NDArray[Any], y: NDArray[Any], steps: int, epochs: int, repeats: int) -> dict[str, Any]:
    """The chip."""
    program = cimc.compile(model(), target="bulk-rram", calibration={"input": x[:256]})
    trainer = cimc.Trainer(cimc.Chip(program), batch_size=BATCH, schedule="constant", init="devices")
    trainer.fit(x, y, epochs=1, steps_per_epoch=steps)  # compiles kernels, and gets over the many writes at the start
    found: dict[str, Any] = rate(lambda: trainer.fit(x, y, epochs=epochs, steps_per_epoch=steps), epochs * steps * BATCH, repeats)
    found["accuracy"] = trainer.evaluate(x[-5000:], y[-5000:])["accuracy"]
    return found


def pytorch(x: NDArray[Any], y: NDArray[Any], steps: int, epochs: int, repeats: int) -> dict[str, Any] | None:
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
    return {
        **_torch_loop(torch, net, torch.optim.AdamW(net.parameters(), 4e-3), x, y, steps, epochs, repeats),
        "version": torch.__version__,
    }


def aihwkit(x: NDArray[Any], y: NDArray[Any], steps: int) -> dict[str, Any] | None:
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
    return {**_torch_loop(torch, net, optimizer, x, y, steps, 1, 1), "version": __version__}


def _torch_loop(
    torch: Any, net: Any, optimizer: Any, x: NDArray[Any], y: NDArray[Any], steps: int, epochs: int, repeats: int
) -> dict[str, float]:
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
    return rate(lambda: fit(epochs), epochs * steps * BATCH, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="batches an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="of a run")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    data = mnist()
    x, y = data["x_train"][:, None].astype(np.float32) / np.float32(255), data["y_train"]
    given = (x, y, options.steps, options.epochs, options.repeats)
    found = {"cimc": ours(*given), "pytorch_fp32": pytorch(*given), "aihwkit_mixed_precision": aihwkit(x, y, options.steps)}
    own = found["cimc"]["images_per_second"]
    others = {name: (found[name] or {}).get("images_per_second") for name in found if name != "cimc"}
    result = {
        "batch": BATCH,
        "steps": options.steps,
        "epochs": options.epochs,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        **found,
        "times_as_fast_as": {name: None if other is None else own / other for name, other in others.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
