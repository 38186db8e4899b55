"""Diagrams of the hardware: the whole way of a model, an array with its converters, a bit-serial read."""

from __future__ import annotations

from svg import Drawing


def overview() -> Drawing:
    """The whole in one picture."""
    d = Drawing(
        920,
        372,
        "An ONNX model is compiled by passes to a program; a chip simulates and trains it; an image leaves for another chip",
    )
    d.labelled(20, 60, 130, 70, "box", ["ONNX model", "any exporter"])
    d.labelled(20, 230, 130, 70, "box", ["target", "YAML, or fitted", "to measurements"])
    d.rect(190, 30, 300, 300, "none line")
    d.text(340, 54, "compile", "text head")
    for y, kind, lines in (
        (68, "digital", ["graph passes", "legalise, fold, select, calibrate"]),
        (148, "analog", ["lower", "crossbar steps, digital segments"]),
        (228, "store", ["program passes", "tile, map, ranges, place, schedule"]),
    ):
        d.labelled(210, y, 260, 62, kind, lines)
    d.arrow([(340, 130), (340, 148)])
    d.arrow([(340, 210), (340, 228)])
    d.text(340, 316, "forecast of errors, cost of an input", "quiet small")
    d.arrow([(150, 95), (210, 95)])
    d.arrow([(150, 265), (190, 265)])
    d.labelled(530, 150, 110, 60, "box", ["program", "model.cim"])
    d.arrow([(470, 259), (510, 259), (510, 180), (530, 180)])
    d.labelled(
        690,
        110,
        210,
        140,
        "analog",
        ["simulated chip", "one seed, one die:", "programmed devices, noise,", "converters, faults, time"],
    )
    d.arrow([(640, 180), (690, 180)])
    d.labelled(690, 28, 98, 50, "box", ["evaluate", "explain, tune"])
    d.labelled(802, 28, 98, 50, "box", ["train", "on the chip"])
    d.arrow([(740, 110), (740, 78)])
    d.arrow([(840, 78), (840, 110)])
    d.arrow([(866, 110), (866, 78)])
    d.labelled(690, 290, 210, 54, "store", ["chip image", "model.cimg: every cell's goal"])
    d.arrow([(795, 250), (795, 290)])
    d.labelled(530, 290, 110, 54, "box", ["another chip", "simulated, real"])
    d.arrow([(690, 317), (640, 317)])
    return d


def array() -> Drawing:
    """An array with DACs, ADCs and a differential pair."""
    d = Drawing(760, 400, "Word lines from DACs cross pairs of bit lines; the ADC codes of a pair are subtracted digitally")
    rows, columns = [90, 145, 200, 255], [260, 330, 440, 510]
    for number, y in enumerate(rows):
        d.labelled(110, y - 17, 70, 34, "digital", ["DAC"])
        d.arrow([(70, y), (110, y)])
        d.text(64, y + 5, f"x{'₁₂₃₄'[number]}", "text", "end")
        d.line([(180, y), (570, y)], "cold", 2)
    d.text(580, rows[0] + 5, "word line", "quiet small", "start")
    for number, x in enumerate(columns):
        d.line([(x, 65), (x, 295)], "hot", 2)
        d.labelled(x - 27, 295, 54, 32, "digital", ["ADC"])
        d.text(x, 56, "+" if number % 2 == 0 else "−", "text head")
        for y in rows:
            d.circle(x, y, 9, "analog")
            d.line([(x - 9, y - 9), (x + 9, y + 9)], "strong", 1.2)
    d.text(columns[-1] + 10, 288, "bit line", "quiet small", "start")
    for left, right, name in ((260, 330, "y₁"), (440, 510, "y₂")):
        middle = (left + right) / 2
        d.rect(left - 20, 124, right - left + 40, 42, "none green", 12)
        d.circle(middle, 358, 14, "store")
        d.text(middle, 363, "−", "text head")
        d.line([(left, 327), (left, 358), (middle - 14, 358)])
        d.line([(right, 327), (right, 358), (middle + 14, 358)])
        d.arrow([(middle, 372), (middle, 390)])
        d.text(middle + 12, 390, name, "text", "start")
    d.text(580, 142, "a weight: two devices,", "quiet small", "start")
    d.text(580, 158, "w ∝ g⁺ − g⁻", "text", "start")
    d.text(580, 210, "a device adds V · g", "quiet small", "start")
    d.text(580, 226, "to its bit line", "quiet small", "start")
    d.text(380, 28, "I = Σ V · g on every bit line, at the same time", "text head")
    return d


def bit_serial() -> Drawing:
    """An input code as pulses, one a bit, and the halving sum before one conversion."""
    d = Drawing(
        760,
        330,
        "An input code drives its word line with one pulse a bit; samples are halved and added, then converted once",
    )
    codes = [("x₁ = 181", "10110101"), ("x₂ = 44", "00101100"), ("x₃ = 255", "11111111")]
    left, width = 150, 44
    d.text(left + 4 * width, 30, "one pulse of the read voltage a bit, least significant first", "text head")
    for number, (name, bits) in enumerate(codes):
        base = 90 + 50 * number
        d.text(left - 14, base - 8, name, "text", "end")
        points = [(float(left), float(base))]
        for cycle, bit in enumerate(reversed(bits)):
            high = base - 28 * int(bit)
            points += [(left + width * cycle, high), (left + width * (cycle + 1), high)]
        d.line([*points, (left + 8 * width, base)], "cold", 2)
    for cycle in range(8):
        x = left + width * (cycle + 0.5)
        d.line([(left + width * cycle, 50), (left + width * cycle, 225)], "line", 0.6, "3 4")
        d.text(x, 246, f"b{'₀₁₂₃₄₅₆₇'[cycle]}", "quiet small")
        d.text(x, 284, f"1/{2 ** (8 - cycle)}", "text small")
    d.text(left - 14, 246, "cycle", "quiet small", "end")
    d.text(left - 14, 284, "weight of the sample", "quiet small", "end")
    d.rect(left, 266, 8 * width, 28, "none hot", 4)
    d.arrow([(left + 8 * width, 280), (545, 280)])
    d.labelled(545, 258, 66, 44, "digital", ["ADC"])
    d.arrow([(611, 280), (655, 280)])
    d.text(662, 285, "one code", "text", "start")
    d.text(545, 90, "a bit line's current is sampled", "quiet small", "start")
    d.text(545, 108, "in each cycle; the held charge", "quiet small", "start")
    d.text(545, 126, "is halved before the next", "quiet small", "start")
    d.text(545, 144, "sample is added", "quiet small", "start")
    return d
