"""Memory for requests, counted before it is taken."""

from __future__ import annotations

from dyndeploy.serving.errors import OverloadedError, TooLargeError


class Budget:
    """A number of bytes that requests share.

    Args:
        limit: at most so many at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def check(self, count: int) -> None:
        """Whether so many could be taken now.

        Raises:
            OverloadedError: others hold too many.
            TooLargeError: it is more than all of it.
        """
        if count > self.limit:
            raise TooLargeError(f"The request has {count} bytes, and all together may have {self.limit}.")
        if self.used + count > self.limit:
            raise OverloadedError(f"Requests hold {self.used} bytes, and no more than {self.limit} may be held.")

    def take(self, count: int) -> None:
        """Take bytes; raises as `check` does."""
        self.check(count)
        self.used += count

    def give(self, count: int) -> None:
        """Give bytes back."""
        self.used -= count
