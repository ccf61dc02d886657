"""Silence what torch says about itself; what a user can act on comes as an error or a warning of its own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Loggers that say what the user cannot act on, or what the error that follows says too -> the level they still have.
_LOGGERS = {
    "torch.onnx._internal.exporter._registration": logging.ERROR,  # "torchvision is not installed"
    "torch.fx.experimental.symbolic_shapes": logging.ERROR,  # "Unable to find user code"
    "torch.export": logging.ERROR,  # the traceback of a file that cannot be read
    "torch.export._trace": logging.CRITICAL,  # examples of what cannot be traced
    "onnx_ir.passes.common.initializer_deduplication": logging.ERROR,  # a parameter that is an output stays its own
}


@contextmanager
def quiet() -> Iterator[None]:
    """While torch exports, saves or loads a program; warnings of the model's own code still show."""
    levels = {logging.getLogger(name): level for name, level in _LOGGERS.items()}
    before = {logger: logger.level for logger in levels}
    for logger, level in levels.items():
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
