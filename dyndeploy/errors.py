"""The one error type: what happened, why, and what to type next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DynError(ValueError):
    """A problem that the user can act on.

    Args:
        what: what happened, in one sentence with the values that were given.
        why: the reason, when `what` does not already carry it.
        fix: what to do or to type next.

    Example:
        >>> print(DynError("height=1500 is outside 224..1344.", fix="Set dims.height in recipe.toml."))
        height=1500 is outside 224..1344.
          fix: Set dims.height in recipe.toml.
    """

    def __init__(self, what: str, *, why: str | None = None, fix: str | None = None) -> None:
        self.what, self.why, self.fix = what, why, fix
        lines = [what]
        if why:
            lines.append(f"  why: {why}")
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))


class MissingPackageError(DynError, ImportError):
    """A package that this step needs is not installed; `fix` is the command that installs it."""

    def __init__(self, package: str, needed_for: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed.",
            fix=f'pip install "dyndeploy[{extra}]"',
        )


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The fix for a wrong name: the one that was probably meant, and all that are allowed."""
    known = list(allowed)
    near = difflib.get_close_matches(name, known, n=1)
    return (f"{near[0]}? " if near else "") + f"Allowed: {', '.join(known) or 'none'}."
