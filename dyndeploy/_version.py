"""The version that is installed."""

from __future__ import annotations


def version() -> str:
    """As packaging knows it; "0+unknown" for a source tree that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("dyndeploy")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"
