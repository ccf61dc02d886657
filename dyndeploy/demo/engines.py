"""The demo's engines: the digits network for TensorRT for RTX, which builds without a GPU, in three ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dyndeploy.errors import DynError, MissingPackageError

if TYPE_CHECKING:
    from dyndeploy.bundle import Bundle
    from dyndeploy.pipeline.build import BuildResult

TARGET = "tensorrt-rtx"
#: What an engine is called in the demo, and how it is built; the last one is what the bundle has in the end.
WAYS: dict[str, dict[str, bool]] = {
    "bodies": {"plugins": False},
    "plugins inside": {"embed_plugins": True},
    "plugins": {},
}


def build_engines(bundle: Bundle, tell: Callable[[str], None]) -> tuple[dict[str, BuildResult], str]:
    """Build in every way that this installation has.

    Args:
        bundle: of the digits network.
        tell: called with what is being built.

    Returns:
        Way -> what was built; and why ways are missing, or "".

    Raises:
        DynError: TensorRT for RTX is there and does not build the network.
    """
    from dyndeploy.native import library_path
    from dyndeploy.pipeline.build import build
    from dyndeploy.tensorrt import vendor

    try:
        vendor.load(TARGET)
    except MissingPackageError as error:
        return {}, str(error)
    missing = ""
    try:
        library_path("tensorrt")
    except DynError as error:
        missing = str(error)
    built = {}
    for way, options in WAYS.items():
        if not missing or not options.get("plugins", True):
            tell(f"engine, {way}")
            built[way] = build(bundle, TARGET, **options)  # type: ignore[arg-type]
    return built, missing
