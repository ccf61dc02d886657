"""From a bundle to an engine in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from dyndeploy.bundle import PRECISIONS, Bundle, Precision, file_digest
from dyndeploy.errors import DynError
from dyndeploy.native.library import library_path
from dyndeploy.tensorrt import cache, process, store, vendor
from dyndeploy.tensorrt.explain import failure
from dyndeploy.tensorrt.gpu import capabilities_for, gpu_to_time_on
from dyndeploy.tensorrt.model import Prepared, prepare
from dyndeploy.tensorrt.plan import Plan
from dyndeploy.tensorrt.process import Monitor, Outcome
from dyndeploy.tensorrt.profile import DimValue, narrowed
from dyndeploy.tensorrt.record import EngineRecord, Runtime, find


@dataclass(frozen=True)
class BuildResult:
    """What `build` did.

    Attributes:
        bundle: the bundle's folder.
        engine: the engine's file.
        hit: the engine was there already; otherwise it was built.
        reason: why it was built; empty for a hit.
        changes: what was changed in the bundle's graph before it was built, in words.
        warnings: what the vendor warned of.
        record: what is known of the engine.
    """

    bundle: str
    engine: str
    hit: bool
    reason: str
    changes: tuple[str, ...]
    warnings: tuple[str, ...]
    record: EngineRecord


def build(
    bundle: Bundle | str | os.PathLike[str],
    target: str,
    *,
    precision: Precision | None = None,
    plugins: bool = True,
    embed_plugins: bool = False,
    inline: Collection[str] = (),
    dims: Mapping[str, DimValue] | None = None,
    gpus: str | Sequence[str] | None = None,
    workspace: int | None = None,
    optimization_level: int | None = None,
    tf32: bool = False,
    force: bool = False,
    log: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
    monitor: Monitor | None = None,
) -> BuildResult:
    """Build an engine of TensorRT or TensorRT for RTX and put it into the bundle, unless it is there already.

    The build runs in a process of its own. When it fails or is interrupted, the bundle is as it was.

    Args:
        bundle: a bundle, or its folder.
        target: "tensorrt", for the GPU of this machine; or "tensorrt-rtx", which needs no GPU.
        precision: "fp16" or "bf16" casts the graph of a float32 bundle; None is the bundle's own precision.
        plugins: our ops become plugins, and the engine needs the plugin library; otherwise they are built from their
            function bodies.
        embed_plugins: the library goes into the engine.
        inline: names or op types of nodes that are built from their bodies all the same.
        dims: dim name -> sizes within those of the bundle, as `export` takes them.
        gpus: for "tensorrt-rtx": generations ("ampere", "ada", "blackwell", "turing") or compute capabilities ("8.6");
            None is all from Ampere on.
        workspace: most bytes of scratch memory that a layer may ask for.
        optimization_level: 0 (quick to build) to 5 (quick to run); None is the vendor's own.
        tf32: float32 products may round their factors to TF32.
        force: build even if the engine is there.
        log: a file for everything that the vendor says.
        progress: called with each step.
        monitor: called with the vendor's own phases while it builds.

    Returns:
        What was built, or found.

    Raises:
        MissingPackageError: the target's package is not installed.
        DynError: the arguments do not fit the bundle or the machine, or the vendor does not build it.
    """
    say = progress or (lambda step: None)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    wanted = vendor.target_of(target)
    log_file = _log_file(log)
    _check(plugins=plugins, embed=embed_plugins, precision=precision, workspace=workspace, level=optimization_level)
    gpu = gpu_to_time_on(wanted) if wanted.needs_gpu else None
    loaded = vendor.load(wanted)
    sizes = narrowed(opened.manifest.dims, dims or {})
    say("preparing the graph")
    prepared = prepare(opened, precision=precision, plugins=plugins, inline=inline, tf32=tf32)
    library = library_path("tensorrt") if any(node.version for node in prepared.nodes) else None
    if embed_plugins and library is None:
        raise DynError("There is no plugin to embed.", why="All dynamic ops are built from their bodies.")
    plan = Plan(
        bundle=opened,
        target=wanted,
        runtime=Runtime(package=wanted.package, version=loaded.version),
        prepared=prepared,
        dims=sizes,
        gpu=gpu,
        capabilities=capabilities_for(loaded, gpus, plugins=library is not None),
        library=library,
        embed=embed_plugins,
        workspace=workspace,
        optimization_level=optimization_level,
        tf32=tf32,
    )
    with store.locked(opened, target, say) as folder:
        reason = "it was asked for" if force else cache.miss(opened, target, plan.key_parts)
        if reason is None:
            return _result(opened, find(opened, target), prepared, hit=True)
        say(f"building: {reason}")
        with store.scratch(folder, prepared.content) as scratch:
            job = plan.job(scratch, log_file)
            outcome = process.run(job, tell=say, monitor=monitor)
            if outcome.done is None:
                what = f"{opened.path} cannot be built for {target}"
                graph = onnx.ModelProto.FromString(prepared.content)
                raise failure(outcome, wanted, graph, what=what, log=log_file)
            record = plan.record(outcome, job)
            _check_unchanged(opened, prepared)
            store.commit(folder, Path(job.engine), record)
    return _result(opened, record, prepared, hit=False, reason=reason, outcome=outcome)


def _check(*, plugins: bool, embed: bool, precision: str | None, workspace: int | None, level: int | None) -> None:
    if embed and not plugins:
        raise DynError("embed_plugins=True and plugins=False contradict each other.", fix="Leave one of them out.")
    if precision is not None and precision not in PRECISIONS:
        raise DynError(f"precision={precision!r} is not known.", fix=f"one of {', '.join(PRECISIONS)}")
    if workspace is not None and workspace < 0:
        raise DynError(f"workspace={workspace} is not a number of bytes.", fix="workspace=2**30")
    if level is not None and not 0 <= level <= 5:
        raise DynError(f"optimization_level={level} is outside 0..5.", fix="optimization_level=3")


def _log_file(log: str | os.PathLike[str] | None) -> str | None:
    if log is None:
        return None
    path = Path(log).resolve()
    try:
        path.write_text("")
    except OSError as error:
        raise DynError(f"{path} cannot be written.", why=str(error), fix="Choose another file.") from None
    return str(path)


def _check_unchanged(bundle: Bundle, prepared: Prepared) -> None:
    """The bundle may have been exported anew while the engine was built."""
    if not bundle.onnx_path.is_file() or file_digest(bundle.onnx_path) != prepared.onnx_sha256:
        raise DynError(
            f"{bundle.onnx_path} changed while the engine was built.",
            why="The engine is of the old model.",
            fix="Build again.",
        )


def _result(
    bundle: Bundle,
    record: EngineRecord,
    prepared: Prepared,
    *,
    hit: bool,
    reason: str = "",
    outcome: Outcome | None = None,
) -> BuildResult:
    warnings = [m for s, m in outcome.log if s == "WARNING"] if outcome else []
    return BuildResult(
        bundle=str(bundle.path),
        engine=str(record.path(bundle)),
        hit=hit,
        reason=reason,
        changes=prepared.changes,
        warnings=tuple(dict.fromkeys(warnings)),
        record=record,
    )
