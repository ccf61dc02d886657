"""How an engine gets into a bundle: one builder at a time, the whole of it or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dyndeploy.bundle import ONNX, Bundle
from dyndeploy.errors import DynError
from dyndeploy.tensorrt.record import RECORD, EngineRecord, engine_folder

_SCRATCH = ".build-"
LOCK = ".lock"
SUFFIX = ".engine"


@contextmanager
def locked(bundle: Bundle, target: str, tell: Callable[[str], None]) -> Iterator[Path]:
    """engines/<target> of a bundle, which no other build touches in this block.

    Args:
        bundle: the bundle.
        target: the target.
        tell: called when another build has to be waited for.

    Raises:
        DynError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = engine_folder(bundle, target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            tell("waiting for another build of this bundle")
            lock.acquire()
    except OSError as error:
        raise DynError(f"{folder} cannot be written.", why=str(error), fix="A bundle that is yours to write.") from None
    try:
        for left in folder.glob(f"{_SCRATCH}*"):  # of a build that was killed: none is running
            shutil.rmtree(left, ignore_errors=True)
        yield folder
    finally:
        lock.release()  # the file stays: somebody may be waiting for it


@contextmanager
def scratch(folder: Path, model: bytes) -> Iterator[Path]:
    """A folder for what is not finished, on the same file system, with the graph in it; gone when the block ends.

    Raises:
        DynError: the folder cannot be written.
    """
    made = None
    try:
        try:
            made = Path(tempfile.mkdtemp(dir=folder.resolve(), prefix=_SCRATCH))
            (made / ONNX).write_bytes(model)
        except OSError as error:
            raise DynError(f"{folder} cannot be written.", why=str(error), fix="Make room on the disk.") from None
        yield made
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)


def commit(folder: Path, engine: Path, record: EngineRecord) -> None:
    """Put a finished engine and its record in place of what was there.

    The record is replaced in one step, after the engine's file is there.

    Raises:
        DynError: the disk is full; what was there is as it was.
    """
    place = folder / record.file
    fresh = not place.exists()
    try:
        os.chmod(engine, 0o644)
        os.replace(engine, place)
        record.save(folder)
    except OSError as error:
        if fresh:
            place.unlink(missing_ok=True)
        raise DynError(
            f"{folder / RECORD} cannot be written.",
            why=str(error),
            fix="Make room on the disk; what the bundle had before is as it was.",
        ) from None
    for old in folder.glob(f"*{SUFFIX}"):
        if old != place:
            old.unlink(missing_ok=True)
