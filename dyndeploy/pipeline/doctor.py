"""Whether what is installed here works, and what to type where it does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dyndeploy.native.library import NVCC, reinstall
from dyndeploy.pipeline import environment
from dyndeploy.pipeline.environment import Library, Package
from dyndeploy.tensorrt.vendor import TARGETS, missing_link

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """Something to mend.

    Attributes:
        what: what is wrong.
        fix: the command that mends it.
        breaks: something that is installed does not work because of it; otherwise it is slower or incomplete.
    """

    what: str
    fix: str
    breaks: bool


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        ok: nothing that is installed is broken.
        system: Python, platform, CPU.
        gpu: driver and devices.
        packages: Python packages.
        tools: compilers.
        libraries: the project's own, compiled ones.
        problems: what to mend.
    """

    ok: bool
    system: dict[str, str]
    gpu: dict[str, str]
    packages: tuple[Package, ...]
    tools: dict[str, str]
    libraries: tuple[Library, ...]
    problems: tuple[Problem, ...]


def doctor(progress: Callable[[str], None] | None = None) -> Diagnosis:
    """Look at this machine. It does not raise: a probe that fails becomes a problem of its own.

    Args:
        progress: called with what is looked at.
    """
    problems: list[Problem] = []

    def guarded(what: str, look: Callable[[], T], otherwise: T) -> T:
        if progress:
            progress(what)
        try:
            return look()
        except Exception as error:  # whatever it is, the rest is still worth printing
            problems.append(
                Problem(
                    f"Looking at {what} failed: {error!r}.",
                    "dyndeploy doctor --json   (for the bug report)",
                    False,
                )
            )
            return otherwise

    system: dict[str, str] = guarded("system", environment.system, {})
    gpu: dict[str, str] = guarded("GPU", environment.gpu, {})
    tools: dict[str, str] = guarded("compilers", environment.tools, {})
    packages: dict[str, Package] = guarded("packages", environment.packages, {})
    libraries: dict[str, Library] = guarded("libraries", environment.libraries, {})
    problems += guarded(
        "own libraries",
        lambda: [
            *broken_library(libraries),
            *no_cuda_kernels(libraries, gpu),
            *engines_without_plugins(packages, libraries),
        ],
        [],
    )
    problems += guarded("known problems", lambda: [p for rule in RULES for p in rule(packages, gpu)], [])
    ok = not any(problem.breaks for problem in problems)
    return Diagnosis(ok, system, gpu, tuple(packages.values()), tools, tuple(libraries.values()), tuple(problems))


def broken_library(libraries: Mapping[str, Library]) -> Iterator[Problem]:
    """One of our own libraries does not load, or one is missing that every installation has."""
    for library in libraries.values():
        if library.loads is False or (library.path is None and library.name not in NVCC):
            yield Problem(
                f"The library {library.name!r} {'does not load' if library.path else 'is missing'}: {library.detail}",
                reinstall(library.name),
                True,
            )


def no_cuda_kernels(libraries: Mapping[str, Library], gpu: Mapping[str, str]) -> Iterator[Problem]:
    """There is a GPU, and the library that would use it was not compiled: that one is optional."""
    library = libraries.get("cuda")
    if library and library.path is None and _has_gpu(gpu):
        yield Problem(f"There is a GPU, and no kernels for it: {library.detail}", reinstall("cuda"), False)


def broken_package(packages: Mapping[str, Package], _gpu: Mapping[str, str]) -> Iterator[Problem]:
    """Installed, but it cannot be imported."""
    for package in packages.values():
        if package.loads is False:
            yield Problem(
                f"{package.name} {package.version} does not load: {package.detail}",
                f"pip install --force-reinstall {package.name}",
                True,
            )


def old_package(packages: Mapping[str, Package], _gpu: Mapping[str, str]) -> Iterator[Problem]:
    """Installed, but older than what dyndeploy works with."""
    for package in packages.values():
        if package.version and package.minimum and _numbers(package.version) < _numbers(package.minimum):
            yield Problem(
                f"{package.name} {package.version} is older than {package.minimum}.",
                f'pip install --upgrade "{package.name}>={package.minimum}"',
                True,
            )


def both_onnxruntimes(packages: Mapping[str, Package], _gpu: Mapping[str, str]) -> Iterator[Problem]:
    """Both wheels write into the same folder: which one is imported depends on the order of installation."""
    if _installed(packages, "onnxruntime") and _installed(packages, "onnxruntime-gpu"):
        yield Problem(
            "onnxruntime and onnxruntime-gpu are both installed; they overwrite each other's files.",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
            True,
        )


def unversioned_rtx_library(packages: Mapping[str, Package], _gpu: Mapping[str, str]) -> Iterator[Problem]:
    """To add a plugin TensorRT for RTX opens libtensorrt_rtx.so; its wheel has libtensorrt_rtx.so.1.

    `dyndeploy build` gives it the link; other programs die.
    """
    library = missing_link(TARGETS["tensorrt-rtx"]) if _installed(packages, "tensorrt_rtx") else None
    if library:
        yield Problem(
            "tensorrt_rtx lacks libtensorrt_rtx.so: other programs than dyndeploy die when they build a plugin in.",
            f"ln -s {library.name} {library.with_name('libtensorrt_rtx.so')}",
            False,
        )


def engines_without_plugins(packages: Mapping[str, Package], libraries: Mapping[str, Library]) -> Iterator[Problem]:
    """There is a TensorRT, and the library of plugins was not compiled: that one is optional."""
    found = [t.package for t in TARGETS.values() if _installed(packages, t.package)]
    library = libraries.get("tensorrt")
    if found and library and library.path is None:
        yield Problem(
            f"{' and '.join(found)} can build engines from function bodies only: {library.detail}",
            reinstall("tensorrt"),
            False,
        )


def unused_gpu(packages: Mapping[str, Package], gpu: Mapping[str, str]) -> Iterator[Problem]:
    """There is a GPU, and something that could use it does not."""
    if not _has_gpu(gpu):
        return
    torch = packages.get("torch")
    if torch and torch.detail == "CPU build":
        yield Problem("There is a GPU, and torch is a CPU build.", "pip install --force-reinstall torch", False)
    if _installed(packages, "onnxruntime") and not _installed(packages, "onnxruntime-gpu"):
        yield Problem(
            "There is a GPU, and onnxruntime is the package for CPUs.",
            'pip uninstall -y onnxruntime && pip install "dyndeploy[onnxruntime-gpu]"',
            False,
        )


def unreachable_gpu(_packages: Mapping[str, Package], gpu: Mapping[str, str]) -> Iterator[Problem]:
    """nvidia-smi sees a GPU that programs cannot use."""
    if _has_gpu(gpu) and not gpu.get("libcuda", "").startswith("CUDA"):
        yield Problem(
            f"nvidia-smi shows a GPU, but libcuda.so.1: {gpu.get('libcuda')}.",
            "docker run --gpus all …   (outside a container: sudo modprobe nvidia_uvm)",
            True,
        )


def nothing_to_export_with(packages: Mapping[str, Package], _gpu: Mapping[str, str]) -> Iterator[Problem]:
    """Neither is a defect: a machine that only runs bundles needs no torch."""
    if packages and not all(_installed(packages, name) for name in ("torch", "onnxscript")):
        yield Problem("torch or onnxscript is missing: no export here.", 'pip install "dyndeploy[export]"', False)


def nothing_to_run_with(packages: Mapping[str, Package], _gpu: Mapping[str, str]) -> Iterator[Problem]:
    """No runtime at all."""
    if packages and not any(
        _installed(packages, name) for name in ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx")
    ):
        yield Problem("No runtime is installed.", 'pip install "dyndeploy[onnxruntime]"', False)


Rule = Callable[[Mapping[str, Package], Mapping[str, str]], Iterator[Problem]]
RULES: tuple[Rule, ...] = (
    broken_package,
    old_package,
    both_onnxruntimes,
    unversioned_rtx_library,
    unreachable_gpu,
    unused_gpu,
    nothing_to_export_with,
    nothing_to_run_with,
)


def _installed(packages: Mapping[str, Package], name: str) -> bool:
    return name in packages and packages[name].version is not None


def _has_gpu(gpu: Mapping[str, str]) -> bool:
    return not gpu.get("nvidia-smi", "not found").startswith(("not found", "fails", "No devices"))


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of "2.13.0+cpu"."""
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[+a-zA-Z]", version)[0]))
