"""What both protocols share while the server runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dyndeploy.serving.budget import Budget
from dyndeploy.serving.guard import Guard
from dyndeploy.serving.journal import Journal
from dyndeploy.serving.models.registry import Registry
from dyndeploy.serving.settings import Settings


@dataclass(frozen=True)
class Context:
    """The parts of one server.

    Attributes:
        settings: how it was set up.
        registry: its models.
        budget: memory for requests.
        guard: who may ask.
        journal: log and traces of requests.
    """

    settings: Settings
    registry: Registry
    budget: Budget
    guard: Guard
    journal: Journal

    def deadline(self, seconds: float | None) -> float | None:
        """The time on the loop's clock at which a request that has `seconds` left, or no limit of its own, ends."""
        limits = [s for s in (seconds, self.settings.timeout_s) if s is not None]
        return asyncio.get_running_loop().time() + min(limits) if limits else None
