"""What TensorRT says while it is called: its errors are in its log, and its functions return None or False."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_logs: dict[int, tuple[Any, Log]] = {}  # with the module, whose id is another's once it is gone
_making = threading.Lock()


class Log:
    """The one logger of a vendor's module in this process: the vendor takes the first and ignores others.

    Attributes:
        logger: what the vendor is given.
    """

    def __init__(self, module: Any) -> None:
        self._heard = threading.local()
        log, worst = self, module.ILogger.Severity.WARNING

        class Logger(module.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                if int(severity) < int(worst):
                    log.hear(message)

        self.logger = Logger()

    @classmethod
    def of(cls, module: Any) -> Log:
        """The log of a module."""
        with _making:
            if id(module) not in _logs:
                _logs[id(module)] = module, cls(module)
            return _logs[id(module)][1]

    def hear(self, message: str) -> None:
        """Note an error for whoever listens in this thread."""
        lines = getattr(self._heard, "lines", None)
        if lines is not None:
            lines.append(message.strip())

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """The errors that are logged by this thread in the block, as they come."""
        before = getattr(self._heard, "lines", None)
        lines: list[str] = []
        self._heard.lines = lines
        try:
            yield lines
        finally:
            self._heard.lines = before
