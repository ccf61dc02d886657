"""What was worked out before, kept within bounds."""

from __future__ import annotations

from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Remembered(dict[_Key, _Value]):
    """A dict that forgets everything when it is full and a further key comes: callers choose the keys, and what is
    remembered of them must not grow with them.

    Args:
        most: keys.

    Example:
        >>> squares = Remembered(2)
        >>> squares[1], squares[2], squares[2] = 1, 4, 4
        >>> len(squares)
        2
        >>> squares[3] = 9
        >>> squares
        {3: 9}
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: _Key, value: _Value) -> None:
        if len(self) >= self._most and key not in self:
            self.clear()
        super().__setitem__(key, value)
