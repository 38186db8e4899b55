"""Train a small ResNet with batch normalisation on Fashion-MNIST in PyTorch, and write it as ONNX.

Nine convolutions (two of them shortcuts) and a dense layer, 77,776 weights: the kind of network that a user of PyTorch brings.
The file keeps batch normalisation apart from the convolutions, so that cimc can train it further.

    pip install torch
    python examples/resnet/make_model.py --epochs 6 -o examples/resnet/resnet.onnx
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cimc.datasets import FASHION_MNIST_FOLDER, fashion_mnist


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """16, 32 and 64 channels, a block each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(torch.relu(self.norm(self.conv(x))))
        return self.fc(y.mean((2, 3)))


def images(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images ``[n, 1, 28, 28]`` in 0...1, and labels."""
    data = fashion_mnist(folder)
    x = torch.from_numpy(data[f"x_{part}"][:, None].astype(np.float32) / np.float32(255))
    return x, torch.from_numpy(data[f"y_{part}"].astype(np.int64))


def accuracy(model: ResNet, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float(torch.cat([model(part).argmax(1) for part in x.split(500)]).eq(y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST_FOLDER, help="folder of the four IDX files")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("resnet.onnx"))
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = ResNet()
    x, y = images(options.data, "train")
    test = images(options.data, "test")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = options.epochs * (len(x) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for epoch in range(options.epochs):
        model.train()
        start, order = time.perf_counter(), torch.randperm(len(x))
        for batch in order[: len(x) // 128 * 128].split(128):
            part = x[batch]
            part = torch.where(torch.rand(len(part), 1, 1, 1) < 0.5, part.flip(3), part)
            loss = functional.cross_entropy(model(part), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}: test accuracy {accuracy(model, *test):.4f}, {seconds:.0f} s", flush=True)
    model.eval()  # PRESERVE keeps this mode, and batch normalisation apart from the convolutions
    torch.onnx.export(
        model,
        (x[:2],),
        options.output,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
