"""Files of JSON lines: what a kill left of the last line is no record, and no other line may be broken."""

from __future__ import annotations

import json

import pytest

from cimc.journal import LineError, json_lines

ROWS = [{"epoch": n, "loss": 1 / n} for n in range(1, 4)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS)


def test_wherever_a_kill_cuts_the_text_whole_lines_are_left() -> None:
    ends = [n for n, letter in enumerate(TEXT) if letter == "\n"]  # a line is whole without its line break
    for size in range(len(TEXT) + 1):
        assert json_lines(TEXT[:size]) == ROWS[: sum(size >= end for end in ends)]


@pytest.mark.parametrize("broken", ["{", "", "[" * 100_000])
def test_a_broken_line_before_the_last_is_named_or_left_out(broken: str) -> None:
    text = f"{json.dumps(ROWS[0])}\n{broken}\n{json.dumps(ROWS[1])}\n"
    with pytest.raises(LineError, match="line 2 is no JSON"):
        json_lines(text)
    assert json_lines(text, skip_broken=True) == ROWS[:2]
