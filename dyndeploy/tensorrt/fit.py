"""Does an engine fit the bundle, the machine and what is installed? What does not is refused before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dyndeploy.bundle import Bundle, file_digest
from dyndeploy.cuda import Device
from dyndeploy.errors import DynError
from dyndeploy.native.library import library_path
from dyndeploy.runtimes.base import UnavailableError
from dyndeploy.tensorrt.record import EngineRecord
from dyndeploy.tensorrt.vendor import Vendor


def rebuild(bundle: Bundle, record: EngineRecord, *, dims: bool = True) -> str:
    """The command that builds an engine like this one again.

    Args:
        bundle, record: the engine.
        dims: for the same sizes; otherwise for all that the bundle has.
    """
    words = [f"dyndeploy build {bundle.path} --target {record.target}"]
    if record.precision != bundle.manifest.precision:
        words.append(f"--precision {record.precision}")
    if record.plugins_embedded:
        words.append("--embed-plugins")
    elif record.ops and record.plugin_sha256 is None:
        words.append("--no-plugins")
    words += [f"--inline {name}" for name in record.config.get("inline") or () if record.plugin_sha256 is not None]
    if record.config.get("tf32"):
        words.append("--tf32")
    if dims:
        own = bundle.manifest.dims
        words += [f"--dim {n}={d.min}:{d.opt}:{d.max}" for n, d in record.dims.items() if own.get(n) != d]
    return " ".join(words)


def read_engine(bundle: Bundle, record: EngineRecord) -> bytes:
    """The engine's file, which is what was built, from the model that is in the bundle.

    Raises:
        DynError: it is another file, or is of another model.onnx.
    """
    path = record.path(bundle)
    try:
        size = path.stat().st_size
        if size != record.bytes:
            raise DynError(
                f"{path} is {'truncated' if size < record.bytes else 'not the engine that was built'}.",
                why=f"It has {size} bytes, and {record.bytes} were written.",
                fix=rebuild(bundle, record),
            )
        content, digest = path.read_bytes(), file_digest(path)
    except OSError as error:
        raise DynError(f"{path} cannot be read.", why=str(error), fix=rebuild(bundle, record)) from error
    if digest != record.sha256:
        raise DynError(
            f"{path} is corrupt, or is not the engine that was built.",
            why=f"Its digest is {_short(digest)}, its record says {_short(record.sha256)}.",
            fix=rebuild(bundle, record),
        )
    model = file_digest(bundle.onnx_path)
    if model != record.onnx_sha256:
        raise DynError(
            f"{path} was built from another model.onnx than {bundle.path} has now.",
            why=f"The digest of the file is {_short(model)}, that of the one it was built from "
            f"{_short(record.onnx_sha256)}.",
            fix=rebuild(bundle, record),
        )
    return content


def check_runtime(bundle: Bundle, record: EngineRecord, vendor: Vendor) -> None:
    """Refuse an engine that another version of the vendor's package built.

    Raises:
        DynError: it is of another version.
    """
    package, version = record.runtime.package, record.runtime.version
    if (package, version) != (vendor.target.package, vendor.version):
        raise DynError(
            f"The {record.target} engine of {bundle.path} was built by {record.runtime}, and here is "
            f"{vendor.target.package} {vendor.version}.",
            why="An engine is sure to load only in the version that built it.",
            fix=f"{rebuild(bundle, record)}, or pip install {package}=={version}",
        )


def plugin_library(bundle: Bundle, record: EngineRecord) -> Path:
    """This installation's library of plugins, which is the one that the engine was built with.

    Raises:
        DynError: there is none, or it is another one.
    """
    library = library_path("tensorrt")
    digest = file_digest(library)
    if digest != record.plugin_sha256:
        raise DynError(
            f"The {record.target} engine of {bundle.path} was built with another library of plugins than {library}.",
            why=f"The digest of that is {_short(str(record.plugin_sha256))}, of this {_short(digest)}: its kernels may "
            "compute something else.",
            fix=rebuild(bundle, record),
        )
    return library


def check_gpu(bundle: Bundle, record: EngineRecord, vendor: Vendor, device: Device) -> str | None:
    """Refuse an engine that is not for this GPU.

    Returns:
        A remark where it is for another GPU of the same compute capability, on which it runs, maybe not at its best.

    Raises:
        UnavailableError: the vendor's package does not support the GPU at all.
        DynError: the engine was built for others.
    """
    capability = "{}.{}".format(*device.compute_capability)
    known = supported(vendor.module)
    if known and capability not in known:
        raise UnavailableError(
            f"{vendor.target.title} {vendor.version} does not support {device.name} (compute capability {capability}).",
            why=f"It supports {', '.join(known)}.",
            fix=f"dyndeploy build {bundle.path} --target tensorrt, or another GPU",
        )
    for gpu in record.gpus:
        if gpu.compute_capability == capability:
            if gpu.name is None or gpu.name == device.name:
                return None
            return f"The engine was timed on {gpu.name}; on {device.name} another one may be faster."
    gpus = "" if vendor.target.needs_gpu else f" --gpus sm_{capability.replace('.', '')}"
    raise DynError(
        f"The {record.target} engine of {bundle.path} is not for {device.name} (compute capability {capability}).",
        why=f"It was built for {', '.join(map(str, record.gpus)) or 'no GPU'}.",
        fix=f"{rebuild(bundle, record)}{gpus}{', on this machine' if vendor.target.needs_gpu else ''}",
    )


def supported(module: Any) -> list[str]:
    """Compute capabilities of a vendor that names them; TensorRT does not."""
    members = getattr(getattr(module, "ComputeCapability", None), "__members__", {})
    return [f"{name[2:-1]}.{name[-1]}" for name in members if name.startswith("SM")]


def _short(digest: str) -> str:
    return f"{digest[:19]}…"
