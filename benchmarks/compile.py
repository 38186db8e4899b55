"""Seconds and peak memory of ``cimc compile`` per million weights, from LeNet to VGG-19 with real random weights.

    python benchmarks/compile.py [--models lenet,alexnet,vgg19] [--embedded] [--target bulk-rram-256]

Each model is compiled and saved in a process of its own, and ``onnx.load`` reads the same file in another, so that the
kernel's figures of peak memory belong to one of them alone. Where other work loads the machine, ``cpu_seconds`` (user and
system, all threads) tells more than ``seconds``. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

#: name -> (input channels, image side, convolution channels with "M" for a 2x2 pool, kernel, pad, dense widths)
MODELS = {
    "lenet": (1, 28, (6, "M", 16, "M"), 5, 0, (120, 84, 10)),
    "vgg8": (3, 32, (32, 32, "M", 64, 64, "M", 128, 128, "M"), 3, 1, (128, 10)),
    "vgg11": (3, 224, (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"), 3, 1, (4096, 4096, 1000)),
    "vgg19": (
        3,
        224,
        (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4, "M"),
        3,
        1,
        (4096, 4096, 1000),
    ),
}


def build(name: str, path: Path, embedded: bool) -> int:
    """Write the network with Gaussian weights; its number of weights."""
    channels, side, features, kernel, pad, dense = MODELS[name]
    rng = np.random.default_rng(0)
    nodes, tensors, value, weights = [], [], "input", 0

    def parameter(label: str, shape: tuple[int, ...], fan_in: int) -> str:
        array = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
        tensors.append(onnx.numpy_helper.from_array(array, label))
        return label

    for i, item in enumerate(features):
        if item == "M":
            nodes.append(helper.make_node("MaxPool", [value], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2]))
            value, side = f"p{i}", side // 2
            continue
        w = parameter(f"conv{i}.weight", (item, channels, kernel, kernel), channels * kernel**2)
        weights += item * channels * kernel**2
        nodes.append(helper.make_node("Conv", [value, w], [f"c{i}"], name=f"conv{i}", kernel_shape=[kernel] * 2, pads=[pad] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        value, channels, side = f"r{i}", item, side + 2 * pad - kernel + 1
    nodes.append(helper.make_node("Flatten", [value], ["flat"]))
    value, width = "flat", channels * side * side
    for i, item in enumerate(dense):
        w, b = parameter(f"fc{i}.weight", (item, width), width), parameter(f"fc{i}.bias", (item,), width)
        weights += item * width
        nodes.append(helper.make_node("Gemm", [value, w, b], [f"g{i}"], name=f"fc{i}", transB=1))
        value, width = f"g{i}", item
        if i < len(dense) - 1:
            nodes.append(helper.make_node("Relu", [value], [f"h{i}"]))
            value = f"h{i}"
    shape = ["batch", MODELS[name][0], MODELS[name][1], MODELS[name][1]]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", width])]
    model = helper.make_model(
        helper.make_graph(nodes, name, inputs, outputs, tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, path, save_as_external_data=not embedded, location=f"{path.name}.data")
    return weights


def measured(code: str, *arguments: str) -> dict[str, float]:
    """Run Python code in a process of its own; its JSON line, with wall seconds and peak memory."""
    footer = """
import json, pathlib, re, resource
used = resource.getrusage(resource.RUSAGE_SELF)
status = pathlib.Path("/proc/self/status")
# A child begins with its parent's ru_maxrss; VmHWM is its own.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) if status.exists() else used.ru_maxrss
seconds, cpu = time.perf_counter() - begin, used.ru_utime + used.ru_stime
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak * 1024}))
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, time\nbegin = time.perf_counter()\n{code}{footer}", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="lenet,vgg8,vgg11,vgg19")
    parser.add_argument("--target", default="bulk-rram-256")
    parser.add_argument("--embedded", action="store_true", help="Weights inside the .onnx file.")
    options = parser.parse_args()
    empty = measured("import cimc.compiler")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            path = Path(folder) / f"{name}.onnx"
            build_begin = time.perf_counter()
            weights = build(name, path, options.embedded)
            float_bytes = 4 * weights
            ours = measured(
                f"import cimc\ncimc.compile(sys.argv[1], {options.target!r}).save(sys.argv[2])", str(path), f"{path}.cim"
            )
            theirs = measured("import onnx\nonnx.load(sys.argv[1])", str(path))
            rows.append(
                {
                    "model": name,
                    "weights": weights,
                    "build_seconds": round(time.perf_counter() - build_begin - ours["seconds"] - theirs["seconds"], 2),
                    "seconds": ours["seconds"],
                    "cpu_seconds": ours["cpu_seconds"],
                    "seconds_per_million_weights": ours["seconds"] / weights * 1e6,
                    "peak_over_float32": ours["peak_bytes"] / float_bytes,
                    "peak_over_float32_less_imports": (ours["peak_bytes"] - empty["peak_bytes"]) / float_bytes,
                    "onnx_load_seconds": theirs["seconds"],
                    "onnx_load_peak_over_float32": theirs["peak_bytes"] / float_bytes,
                }
            )
            print(f"{name}: {ours['seconds']:.2f} s", file=sys.stderr)
            for file in Path(folder).iterdir():
                file.unlink()
    result = {
        "target": options.target,
        "embedded": options.embedded,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "import_seconds": empty["seconds"],
        "import_cpu_seconds": empty["cpu_seconds"],
        "models": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
