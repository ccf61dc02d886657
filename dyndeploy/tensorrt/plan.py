"""An engine to be built, with every decision taken: what makes it the same one again, the job, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import cast

from dyndeploy.bundle import ONNX, Bundle, file_digest
from dyndeploy.tensorrt import cache, store
from dyndeploy.tensorrt.layers import engine_ops, engine_tensors
from dyndeploy.tensorrt.model import Prepared
from dyndeploy.tensorrt.process import Outcome
from dyndeploy.tensorrt.profile import profile_of
from dyndeploy.tensorrt.record import EngineRecord, Gpu, Runtime, TargetName
from dyndeploy.tensorrt.vendor import Target
from dyndeploy.tensorrt.worker import Job
from dyndeploy.tensors import Dim


@dataclass(frozen=True)
class Plan:
    """One engine.

    Attributes:
        bundle: it is for.
        target: it is for.
        runtime: the package that builds.
        prepared: the graph.
        dims: of the profile.
        gpu: the GPU that it is timed on; None where it is built for generations.
        capabilities: the generations then, as compute capabilities ("8.6").
        library: of plugins, or None.
        embed: it goes into the engine.
        workspace, optimization_level, tf32: as in `Job`.
    """

    bundle: Bundle
    target: Target
    runtime: Runtime
    prepared: Prepared
    dims: Mapping[str, Dim]
    gpu: Gpu | None
    capabilities: tuple[str, ...]
    library: Path | None
    embed: bool
    workspace: int | None
    optimization_level: int | None
    tf32: bool

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """What the engine will run on."""
        return (self.gpu,) if self.gpu else tuple(Gpu(compute_capability=c) for c in self.capabilities)

    @cached_property
    def library_sha256(self) -> str | None:
        """Digest of the plugin library."""
        return file_digest(self.library) if self.library else None

    @cached_property
    def key_parts(self) -> dict[str, str]:
        """What makes the engine the one that it is, by the names that a miss is explained with; only what is given."""
        parts = {
            "onnx": self.prepared.onnx_sha256,
            "precision": self.prepared.precision,
            "bodies": ", ".join(node.name for node in self.prepared.nodes if node.version is None),
            "plugin library": self.library_sha256 or "",
            "embedding": "library inside" if self.embed else "",
            "runtime": str(self.runtime),
            "gpus": ", ".join(map(str, self.gpus)),
            "dims": ", ".join(f"{name}={d.min}:{d.opt}:{d.max}" for name, d in self.dims.items()),
            "workspace": _given(self.workspace),
            "optimization level": _given(self.optimization_level),
            "tf32": "on" if self.tf32 else "",
            "graph": self.prepared.graph_sha256,
        }
        return {name: value for name, value in parts.items() if value}

    def job(self, scratch: Path, log: str | None) -> Job:
        """What the worker is told; the graph lies in `scratch`, the engine will."""
        return Job(
            target=self.target,
            model=str(scratch / ONNX),
            engine=str(scratch / "engine"),
            profile=profile_of(self.bundle, self.dims),
            library=str(self.library) if self.library else None,
            embed=self.embed,
            capabilities=tuple(f"SM{c.replace('.', '')}" for c in self.capabilities),
            workspace=self.workspace,
            optimization_level=self.optimization_level,
            tf32=self.tf32,
            timing_cache=str(cache.timing_cache(self.runtime, self.gpu)) if self.gpu else None,
            log=log,
        )

    def record(self, outcome: Outcome, job: Job) -> EngineRecord:
        """The record of the finished engine.

        Raises:
            DynError: a node was to be a plugin and was built from its body.
        """
        assert outcome.done is not None
        ops = engine_ops(outcome, self.prepared, self.target)
        engine = Path(job.engine)
        sha256 = file_digest(engine)
        return EngineRecord(
            target=cast(TargetName, self.target.name),
            file=f"model-{sha256.removeprefix('sha256:')[:12]}{store.SUFFIX}",
            bytes=engine.stat().st_size,
            sha256=sha256,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            onnx_sha256=self.prepared.onnx_sha256,
            precision=self.prepared.precision,
            io_precision=self.bundle.manifest.io_precision,
            body=self.prepared.body,
            runtime=self.runtime,
            plugin_sha256=self.library_sha256,
            plugins_embedded=self.embed,
            gpus=self.gpus,
            dims=dict(self.dims),
            profiles=(dict(job.profile),) if job.profile else (),
            tensors=engine_tensors(outcome),
            ops=ops,
            config={
                "workspace": self.workspace,
                "optimization_level": self.optimization_level,
                "tf32": self.tf32,
            },
            seconds=outcome.done["seconds"],
            key=cache.key_of(self.key_parts),
            key_parts=self.key_parts,
        )


def _given(value: int | None) -> str:
    return "" if value is None else str(value)
