"""Names that nothing else has.

onnx_ir's naming authority numbers what has no name (``val_3``) and looks at no name that is given. Here a name is wished for,
after the user's node or parameter that it belongs to, and it is numbered only where the wish is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Names:
    """Taken names, and free ones like them.

    Args:
        taken: Names that are not given.
        sign: Between a wish and its number.
        first: The first number.
        key: What must differ between two names; the default: the names themselves.
    """

    def __init__(
        self, taken: Iterable[str | None] = (), *, sign: str = "_", first: int = 2, key: Callable[[str], str] = str
    ) -> None:
        self._key, self._sign, self._first = key, sign, first
        self._taken = {key(name) for name in taken if name}
        self._next: dict[str, int] = {}  # numbers below are taken

    def fresh(self, wish: str, *, numbered: bool = False) -> str:
        """The wish where it is free, else the wish with the first number that makes it so; it is taken from then on.

        Args:
            wish: A name.
            numbered: Number it in any case.
        """
        name = wish
        if numbered or self._key(name) in self._taken:
            number = self._next.get(wish, self._first)
            while self._key(name := f"{wish}{self._sign}{number}") in self._taken:
                number += 1
            self._next[wish] = number + 1
        self._taken.add(self._key(name))
        return name
