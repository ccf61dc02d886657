"""Checkpoints of the papers' official code, and our own.

load_checkpoint    fill a network or a layer
CheckpointReport   what was recognised
"""

from __future__ import annotations

from dyndeploy.checkpoints.load import load_checkpoint
from dyndeploy.checkpoints.report import CheckpointReport

__all__ = ["CheckpointReport", "load_checkpoint"]
