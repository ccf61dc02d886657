"""What is made once for each model, and forgotten with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from dyndeploy.serving.models.model import Model

_Made = TypeVar("_Made")


class PerModel(Generic[_Made]):
    """One thing for each model.

    Args:
        make: makes it; what it makes must not hold the model, which would stay for ever.
    """

    def __init__(self, make: Callable[[Model], _Made]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[Model, _Made] = WeakKeyDictionary()

    def of(self, model: Model) -> _Made:
        """That of a model; made where there is none."""
        made = self._made.get(model)
        if made is None:
            made = self._made[model] = self._make(model)
        return made
