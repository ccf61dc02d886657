"""How a runtime runs a changed copy of a bundle's model: as it is, or as an engine that is built from it first."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import onnx
import onnx.inliner

from dyndeploy.bundle import ONNX, Bundle, file_digest
from dyndeploy.graph.swap_bodies import swap_bodies
from dyndeploy.ops._spec import DOMAIN, custom_ops
from dyndeploy.runtimes import Session, open_session
from dyndeploy.tensors import TensorSpec

#: The runtimes that run engines, not ONNX files.
ENGINES = ("tensorrt", "tensorrt-rtx")


class Opener(Protocol):
    """Opens a changed copy of a bundle's model in one runtime."""

    def __call__(self, model: bytes, bodies: Collection[str] = ()) -> AbstractContextManager[Session]:
        """Open it.

        Args:
            model: with the bundle's inputs, and its outputs or more.
            bodies: names of nodes of ours that are to run by their function bodies.

        Raises:
            DynError: the runtime does not take it.
        """
        ...


def opener_of(bundle: Bundle, runtime: str) -> Opener:
    """The way of a runtime."""
    return _EngineOpener(bundle, runtime) if runtime in ENGINES else _OnnxOpener(runtime)


class _OnnxOpener:
    def __init__(self, runtime: str) -> None:
        self._runtime = runtime

    def __call__(self, model: bytes, bodies: Collection[str] = ()) -> AbstractContextManager[Session]:
        if bodies:
            model = swap_bodies(onnx.ModelProto.FromString(model), bodies).SerializeToString()
        return open_session(model, self._runtime)


class _EngineOpener:
    """Builds an engine like the bundle's, in a bundle that is gone afterwards."""

    def __init__(self, bundle: Bundle, runtime: str) -> None:
        self._bundle, self._runtime = bundle, runtime

    @contextmanager
    def __call__(self, model: bytes, bodies: Collection[str] = ()) -> Iterator[Session]:
        from dyndeploy.pipeline.build import build
        from dyndeploy.tensorrt.record import find

        record = find(self._bundle, self._runtime)
        with tempfile.TemporaryDirectory(prefix="dyndeploy-") as folder:
            variant = variant_of(self._bundle, model, Path(folder) / self._bundle.name)
            inlined = {op.name for op in record.ops if op.how == "inlined"}
            names = {name for op in record.ops for name in (op.name,)}
            build(
                variant,
                self._runtime,
                precision=record.precision,  # type: ignore[arg-type]
                plugins=record.plugin_sha256 is not None,
                inline=sorted((inlined | set(bodies)) & names),
                dims=record.dims,
                gpus=[g.compute_capability for g in record.gpus] if self._runtime == "tensorrt-rtx" else None,
                workspace=record.config.get("workspace"),
                optimization_level=record.config.get("optimization_level"),
                tf32=bool(record.config.get("tf32")),
            )
            with open_session(variant, self._runtime, graphs=0) as session:
                yield session


def variant_of(bundle: Bundle, model: bytes, folder: Path) -> Bundle:
    """A bundle with another model.onnx, and nothing else, for an engine to be built from.

    Args:
        bundle: whose inputs and dims it has.
        model: the model. Functions in it that are no operators are inlined, as a build knows operators only.
        folder: to be made.
    """
    proto = onnx.ModelProto.FromString(model)
    operators = {str(spec.name) for spec in custom_ops()}
    others = [(f.domain, f.name) for f in proto.functions if f.domain == DOMAIN and f.name not in operators]
    if others:
        proto = onnx.inliner.inline_selected_functions(proto, others)
    folder.mkdir()
    (folder / ONNX).write_bytes(proto.SerializeToString())
    known = {spec.name: spec for spec in bundle.manifest.outputs}
    outputs = [known.get(value.name) or _spec(value) for value in proto.graph.output]
    files = {ONNX: file_digest(folder / ONNX)}
    variant = Bundle(folder, bundle.manifest.model_copy(update={"outputs": outputs, "files": files}))
    variant.save_manifest()
    return variant


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = [d.dim_value or d.dim_param or f"{value.name}_{i}" for i, d in enumerate(tensor.shape.dim)]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorSpec(name=value.name, dtype=str(dtype), shape=tuple(shape))
