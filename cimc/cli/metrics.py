"""Tables of metrics by class: what was taken for what, and how well each class is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cimc.cli.common import print_table

#: Classes of a table that is shown whole; of more, the most frequent confusions are listed.
_WHOLE = 12
_ROWS = 20


def print_classes(metrics: Mapping[str, Any], names: Sequence[str]) -> None:
    """What ``per-class`` and ``confusion`` came to on the chip; the JSON has those of ONNX Runtime too.

    Args:
        metrics: Of an evaluation.
        names: Of the classes by number; empty: they have none.
    """
    if "per-class" in metrics:
        rows = metrics["per-class"]["chip"]
        cells = [(_name(n, names), row["count"], row["precision"], row["recall"], row["f1"]) for n, row in enumerate(rows)]
        print_table("by class, on the chip", ("class", "labels", "precision", "recall", "F1"), cells)
    if "confusion" not in metrics:
        return
    table = metrics["confusion"]["chip"]
    if len(table) <= _WHOLE:
        columns = ("label", *(_name(n, names) for n in range(len(table))))
        print_table(
            "what the chip said (columns) of each class", columns, [(_name(n, names), *row) for n, row in enumerate(table)]
        )
        return
    wrong = [(count, true, said) for true, row in enumerate(table) for said, count in enumerate(row) if count and true != said]
    worst = sorted(wrong, key=lambda entry: (-entry[0], entry[1:]))[:_ROWS]
    title = f"what the chip took for another class, most frequent first ({len(worst)} of {len(wrong)} pairs)"
    print_table(title, ("label", "the chip said", "images"), [(_name(t, names), _name(s, names), count) for count, t, s in worst])


def _name(number: int, names: Sequence[str]) -> str:
    return f"{number} {names[number]}" if number < len(names) and names[number] != str(number) else str(number)
