"""Where nodes of a graph are drawn: in rows from the top down, with lanes for links that pass a row."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.pages.parts import Link

WIDTH, HEIGHT, GAP_X, GAP_Y = 176.0, 38.0, 16.0, 26.0
_LANE = 10.0
_TOP = 8.0

#: A node in its row, or its lane in a later one: number of the node, row.
_Item = tuple[int, int]


class Layout:
    """Nodes in rows, each above the nodes that read it, and near the nodes that it reads.

    A link that passes rows has a lane in each of them, which all readers of its node share.

    Args:
        reads: Of each node, the nodes before it that it reads.

    Attributes:
        rows: Row of each node.
        width: Of the drawing, pixels.
        height: Likewise.
    """

    def __init__(self, reads: Sequence[Sequence[int]]) -> None:
        self._reads = reads
        self.rows: list[int] = []
        for before in reads:
            self.rows.append(1 + max((self.rows[k] for k in before), default=-1))
        self._lower()
        self._last = list(self.rows)
        for number, before in enumerate(reads):
            for k in before:
                self._last[k] = max(self._last[k], self.rows[number] - 1)
        self._centre: dict[_Item, float] = {}
        count = max(self.rows, default=-1) + 1
        items: list[list[_Item]] = [[] for _ in range(count)]
        for number, first in enumerate(self.rows):
            for row in range(first, self._last[number] + 1):
                items[row].append((number, row))
        for row_items in items:
            self._place(row_items)
        left = min((x - self._size(item) / 2 for item, x in self._centre.items()), default=0.0) - GAP_X
        self._centre = {item: x - left for item, x in self._centre.items()}
        self.width = max((x + self._size(item) / 2 for item, x in self._centre.items()), default=0.0) + GAP_X
        self.height = count * (HEIGHT + GAP_Y)

    def _lower(self) -> None:
        """Move each node down to the row above its first reader: side branches and constants stand where they are used."""
        readers: list[list[int]] = [[] for _ in self.rows]
        for number, before in enumerate(self._reads):
            for k in before:
                readers[k].append(number)
        for number in reversed(range(len(self.rows))):
            if readers[number]:
                self.rows[number] = min(self.rows[k] for k in readers[number]) - 1

    def corner(self, number: int) -> tuple[float, float]:
        """Upper left corner of a node."""
        row = self.rows[number]
        return self._centre[number, row] - WIDTH / 2, self._y(row)

    def links(self) -> list[Link]:
        """Curves from row to row, and lines down the lanes."""
        found = []
        for number, first in enumerate(self.rows):
            for row in range(first + 1, self._last[number] + 1):
                x, top, bottom = self._centre[number, row], self._y(row), self._y(row) + HEIGHT
                found += [self._curve((number, row - 1), x, row), ((x, top), (x, top), (x, bottom), (x, bottom))]
        for number, before in enumerate(self._reads):
            row = self.rows[number]
            found += [self._curve((k, row - 1), self._centre[number, row], row) for k in before]
        return found

    def _curve(self, start: _Item, x: float, row: int) -> Link:
        """From below an item to the upper edge of the next row."""
        x0, y0, y1 = self._centre[start], self._y(row - 1) + HEIGHT, self._y(row)
        return (x0, y0), (x0, y0 + GAP_Y / 2), (x, y1 - GAP_Y / 2), (x, y1)

    def _place(self, items: list[_Item]) -> None:
        """Put the items of a row side by side, near where they want to be; nodes decide, lanes give way."""
        wish = {item: self._wish(item) for item in items}
        items.sort(key=lambda item: (wish[item], self._is_lane(item)))
        centres: list[float] = []
        end = float("-inf")
        for item in items:
            centres.append(max(wish[item], end + self._size(item) / 2))
            end = centres[-1] + self._size(item) / 2 + (GAP_X if not self._is_lane(item) else GAP_X / 2)
        moved = [x - wish[item] for item, x in zip(items, centres, strict=True) if not self._is_lane(item)]
        shift = sum(moved) / len(moved) if moved else 0.0
        self._centre.update({item: x - shift for item, x in zip(items, centres, strict=True)})

    def _wish(self, item: _Item) -> float:
        """Below what it comes from: nodes of the row above rather than lanes."""
        number, row = item
        if self._is_lane(item):
            return self._centre[number, row - 1]
        near = [k for k in self._reads[number] if self.rows[k] == row - 1] or self._reads[number]
        return sum(self._centre[k, row - 1] for k in near) / len(near) if near else 0.0

    def _is_lane(self, item: _Item) -> bool:
        return item[1] > self.rows[item[0]]

    def _size(self, item: _Item) -> float:
        return _LANE if self._is_lane(item) else WIDTH

    def _y(self, row: int) -> float:
        return row * (HEIGHT + GAP_Y) + _TOP
