"""Decisions of networks that name a class or cross a threshold, and inputs on which they are taken.

The inputs differ more than those of `networks.py`, so that ONNX Runtime takes different decisions on them.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from networks import text_line, voice
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

#: Bytes that magika takes of either end of a file; PADDING stands where there is none.
END_BYTES, PADDING = 1024, 256
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Decisions:
    """``inputs`` gives one input by seed, ``decide`` the decision that the first output stands for."""

    inputs: Callable[[int], Arrays]
    decide: Callable[[NDArray[Any]], NDArray[Any]]


@cache
def installed_files() -> tuple[Path, ...]:
    """Files of the Python installation, 64 bytes to 1 MB, at most 40 of a suffix, in a fixed random order."""
    found = [p for p in Path(sysconfig.get_paths()["stdlib"]).rglob("*") if p.is_file() and 64 <= p.stat().st_size <= 1 << 20]
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(found):
        by_suffix.setdefault(path.suffix, []).append(path)
    rng = np.random.default_rng(0)
    some = [path for group in by_suffix.values() for path in (group[i] for i in rng.permutation(len(group))[:40])]
    return tuple(some[i] for i in rng.permutation(len(some)))


def file_ends(path: Path) -> NDArray[np.int32]:
    """First and last bytes of a file without white space at its ends, ``[1, 2 * END_BYTES]``."""
    content = np.frombuffer(path.read_bytes(), np.uint8).astype(np.int32)
    white = np.isin(content, np.frombuffer(b" \t\n\r\v\f", np.uint8))
    inner = np.flatnonzero(~white)
    content = content[inner[0] : inner[-1] + 1] if len(inner) else content
    ends = np.full((1, 2 * END_BYTES), PADDING, np.int32)
    first, last = content[:END_BYTES], content[-END_BYTES:]
    ends[0, : len(first)], ends[0, 2 * END_BYTES - len(last) :] = first, last
    return ends


def sound(seed: int) -> NDArray[np.float32]:
    """A vowel, noise, or a vowel in noise, in turn, ``[1, 576]``."""
    rng = np.random.default_rng(seed)
    speech, noise = (0.0, 1.0) if seed % 3 == 1 else (1.0, 0.0) if seed % 3 == 0 else (1.0, 1.0)
    level = 10 ** rng.uniform(-2.5, 0)
    wave: NDArray[np.float32] = (speech * voice(576, seed) + noise * level * rng.normal(0, 0.3, 576)).astype(np.float32)
    return wave[None]


def turned_line(seed: int) -> NDArray[np.float32]:
    """A line of print, every second one upside down."""
    line = text_line(48, 192, seed)
    return np.ascontiguousarray(line[:, :, ::-1, ::-1]) if seed % 2 else line


def captcha(seed: int) -> NDArray[np.float32]:
    """Four letters or digits in dark colours on white, ``[1, 3, 60, 160]``, 0 to 255, blue first. Needs Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (160, 60), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(38)
    for i, letter in enumerate(rng.integers(0, len(LETTERS), 4)):
        colour = (int(rng.integers(150)), int(rng.integers(150)), int(rng.integers(150)))
        pen.text((10 + 36 * i, 8 + int(rng.integers(-5, 6))), LETTERS[letter], fill=colour, font=font)
    return np.ascontiguousarray(np.asarray(picture, np.float32)[None, :, :, ::-1].transpose(0, 3, 1, 2))


def _texts(logits: NDArray[Any]) -> NDArray[Any]:
    """The text of each captcha from ``[position, captcha, class]``: repeats count once, the last class is blank."""
    texts = []
    for classes in logits.argmax(-1).T:
        begins = np.concatenate([[True], classes[1:] != classes[:-1]])
        texts.append("".join(LETTERS[c] for c in classes[begins] if c < len(LETTERS)))
    return np.array(texts)


def _largest(output: NDArray[Any]) -> NDArray[Any]:
    classes: NDArray[Any] = output.argmax(-1)
    return classes


def _above_half(output: NDArray[Any]) -> NDArray[Any]:
    return output > 0.5


def _voice_network(seed: int) -> Arrays:
    return {"input": sound(seed), "state": np.zeros((2, 1, 128), np.float32)}


DECISIONS: Mapping[str, Decisions] = {
    "magika": Decisions(lambda seed: {"bytes": file_ends(installed_files()[seed % len(installed_files())])}, _largest),
    "captcha_crnn": Decisions(lambda seed: {"image": captcha(seed)}, _texts),
    "akiki-vad": Decisions(lambda seed: {"audio_with_context": sound(seed), "h": np.zeros((1, 1, 128), np.float32)}, _above_half),
    "silero_vad_openvino": Decisions(_voice_network, _above_half),
    "pp-ocr-cls": Decisions(lambda seed: {"x": turned_line(seed)}, _largest),
}
