"""Diagrams of writes: the acceptance band of write-verify, and the threshold rule of training."""

from __future__ import annotations

from svg import Drawing


def write_verify() -> Drawing:
    """Trains of SET and RESET pulses around a goal, until a read lies in the acceptance band."""
    d = Drawing(
        760,
        360,
        "SET pulses raise a conductance above the acceptance band, RESET pulses bring it back into the band",
    )

    def y(g_us: float) -> float:
        return 300 - 8 * g_us

    goal, tolerance = 18.0, 4.1
    d.rect(90, y(goal + tolerance), 520, 8 * 2 * tolerance, "band", 0)
    d.line([(90, y(goal)), (610, y(goal))], "green", 1.5, "6 4")
    d.text(622, y(goal) + 5, "goal", "text", "start")
    d.text(622, y(goal + tolerance) + 5, "goal + tolerance", "quiet small", "start")
    d.text(622, y(goal - tolerance) + 5, "goal − tolerance", "quiet small", "start")
    reads = [7.0, 8.2, 9.8, 12.0, 15.1, 19.6, 26.5, 25.4, 24.0, 21.2]
    xs = [110 + 50 * number for number in range(len(reads))]
    d.line(list(zip(xs, map(y, reads), strict=True)), "line", 1, "2 3")
    for number, (x, g) in enumerate(zip(xs, reads, strict=True)):
        d.circle(x, y(g), 5, "greenfill" if number == len(reads) - 1 else "coldfill" if number < 7 else "hotfill")
    d.text(xs[-1] - 8, y(reads[-1]) + 22, "accepted", "text head")
    d.line([(90, 40), (90, 300), (620, 300)], "strong", 1.5)
    d.text(30, 28, "conductance as read, µS", "quiet small", "start")
    for g in (0, 10, 20, 30):
        d.text(80, y(g) + 4, str(g), "quiet small", "end")
        d.line([(86, y(g)), (90, y(g))], "strong", 1)
    d.text(110, 322, "first read", "quiet small")
    d.line([(140, 316), (415, 316)], "cold", 3)
    d.text(278, 338, "SET train, rising voltage: until a read lies above the band", "quiet small")
    d.line([(440, 316), (565, 316)], "hot", 3)
    d.text(515, 354, "RESET train: until a read lies at or below its upper end", "quiet small")
    return d


#: Gradient steps of one weight, in thresholds.
_STEPS = (
    0.22,
    0.31,
    -0.12,
    0.28,
    0.19,
    0.34,
    0.1,
    -0.2,
    -0.33,
    -0.24,
    -0.31,
    -0.27,
    0.16,
    0.2,
    -0.1,
    0.24,
    0.3,
    0.21,
    0.32,
    0.15,
)


def threshold() -> Drawing:
    """The sum of steps of one weight, and the weight that its devices were last written to."""
    d = Drawing(
        760, 400, "Steps add up digitally; where their sum passes the threshold, the devices are written and the sum is 0 again"
    )
    left, width = 110, 30

    def top(value: float) -> float:
        return 120 - 62 * value

    def bottom(value: float) -> float:
        return 330 - 28 * value

    d.text(left, 28, "accumulator ΔW: digital, in units of the threshold θ", "text head", "start")
    for value, name in ((1, "θ"), (0, "0"), (-1, "−θ")):
        d.line([(left, top(value)), (left + 20 * width, top(value))], "hot" if value else "line", 1, "5 4" if value else "")
        d.text(left - 10, top(value) + 5, name, "text", "end")
    d.text(left, 232, "W: what the devices were last written to", "text head", "start")
    total, weight, sums, held = 0.0, 0.0, [(float(left), top(0))], [(float(left), bottom(0))]
    for number, step in enumerate(_STEPS):
        x = left + width * (number + 1)
        total += step
        sums.append((x, top(total)))
        held.append((x, bottom(weight)))
        if abs(total) > 1:
            d.line([(x, top(total)), (x, bottom(weight))], "line", 0.8, "2 4")
            weight, total = weight + total, 0.0
            sums.append((x, top(0)))
            held.append((x, bottom(weight)))
            d.circle(x, bottom(weight), 5, "greenfill")
            d.text(x + 9, bottom(weight) - 8, "a write", "quiet small", "start")
    d.line(sums, "cold", 2)
    d.line(held, "green", 2)
    d.arrow([(left, 380), (left + 20 * width, 380)], "strong")
    d.text(left + 20 * width, 372, "training steps", "quiet small", "end")
    return d
