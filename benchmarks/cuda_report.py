"""What the compiler made of the CUDA kernels: registers, shared memory, spills, occupancy, and what they consist of.

    python benchmarks/cuda_report.py
    python benchmarks/cuda_report.py --architecture 80 --architecture 90 --save

Needs no GPU. Every operator's cuda*.cu are compiled as the library is; ptxas says what a kernel needs, nvdisasm (of the
package nvidia-cuda-nvdisasm, or of a CUDA toolkit) what it consists of, and the operator how it launches it.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import record
from rich.console import Console

from dyndeploy.cli._render import heading, table
from dyndeploy.errors import DynError

PLUGINS = Path(__file__).resolve().parent.parent / "plugins"
ARCHITECTURES = (80, 90)

#: Of a multiprocessor, by compute capability: registers, shared memory in bytes, threads, blocks; CUDA C++ Programming
#: Guide, "Technical Specifications per Compute Capability". One KiB of shared memory per block is the system's.
_MULTIPROCESSORS = {
    80: (65536, 164 * 1024, 2048, 32),
    86: (65536, 100 * 1024, 1536, 16),
    89: (65536, 100 * 1024, 1536, 24),
    90: (65536, 228 * 1024, 2048, 32),
    100: (65536, 228 * 1024, 2048, 32),
    120: (65536, 100 * 1024, 1536, 24),
}
_SYSTEM_SHARED = 1024
#: Columns of the printed table.
_WIDTH = 160
#: Registers are given to warps in units of 256.
_WARP, _REGISTER_UNIT = 32, 256


@dataclass(frozen=True)
class Launch:
    """How the library starts a kernel: struct dyndeploy_cuda_kernel."""

    name: str
    threads: int
    shared_bytes: int
    blocks: int


@dataclass(frozen=True)
class Kernel:
    """A kernel as compiled for one architecture.

    Attributes:
        operator: its folder.
        launch: how it is started; `launch.blocks` of it are meant to share a multiprocessor.
        architecture: 90 for sm_90.
        registers: of a thread.
        stack_bytes: of a thread.
        spilled_bytes: stored to and loaded from local memory because registers ran out.
        instructions: how many there are of each kind, by the names of `_KINDS`.
    """

    operator: str
    launch: Launch
    architecture: int
    registers: int
    stack_bytes: int
    spilled_bytes: int
    instructions: dict[str, int]

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor can hold at once."""
        registers, shared, threads, blocks = _MULTIPROCESSORS[self.architecture]
        warps = -(-self.launch.threads // _WARP)
        per_warp = -(-self.registers * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
        # The four schedulers each have a quarter of the registers.
        by_registers = registers // 4 // per_warp * 4 // warps
        by_shared = shared // (self.launch.shared_bytes + _SYSTEM_SHARED)
        return min(by_registers, by_shared, threads // (warps * _WARP), blocks)

    @property
    def occupancy(self) -> float:
        """Warps at once, as a share of what the multiprocessor could hold."""
        warps = -(-self.launch.threads // _WARP)
        return self.blocks * warps / (_MULTIPROCESSORS[self.architecture][2] / _WARP)


#: Kind of instruction -> its SASS.
_KINDS = {
    "mma": re.compile(r"\bHMMA\."),
    "load 16": re.compile(r"\bLDG\.E(\.\w+)*\.128\b"),
    "copy 16": re.compile(r"\bLDGSTS\.E(\.\w+)*\.128\b"),
    "store 16": re.compile(r"\bSTG\.E(\.\w+)*\.128\b"),
    "local": re.compile(r"\b(LDL|STL)\b"),
}


def nvcc() -> str:
    """The compiler.

    Raises:
        DynError: there is none.
    """
    found = os.environ.get("CUDACXX") or shutil.which("nvcc", path=_search_path())
    if not found:
        raise DynError("There is no nvcc.", fix="pip install 'dyndeploy[nvcc]', or install the CUDA toolkit")
    return found


def nvdisasm() -> str:
    """The disassembler.

    Raises:
        DynError: there is none.
    """
    found = shutil.which("nvdisasm", path=_search_path())
    if not found:
        raise DynError("There is no nvdisasm.", fix="pip install nvidia-cuda-nvdisasm")
    return found


def _search_path() -> str:
    packages = Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin")
    toolkits = [os.environ.get(name, "") + "/bin" for name in ("CUDA_HOME", "CUDA_PATH")]
    return os.pathsep.join([os.environ.get("PATH", ""), *toolkits, "/usr/local/cuda/bin", *map(str, packages)])


def flags() -> list[str]:
    """What the build gives nvcc, from plugins/cuda.cmake."""
    found = re.search(r"set\(DYNDEPLOY_NVCC_FLAGS ([^)]*)\)", (PLUGINS / "cuda.cmake").read_text())
    assert found
    return found[1].split()


def operators() -> list[str]:
    """The folders that have CUDA kernels."""
    return sorted(file.parent.name for file in PLUGINS.glob("*/cuda.cu"))


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("threads", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int32),
        ("blocks", ctypes.c_int32),
    )


def launches(operator: str, file: Path) -> dict[str, Launch]:
    """Symbol of a kernel -> how the library starts it, of all kernels of an operator.

    Raises:
        DynError: a kernel in the list has no symbol of its own.
    """
    library = ctypes.CDLL(str(file))
    kernels = ctypes.POINTER(_Kernel)()
    count = getattr(library, f"dyndeploy_{operator}_cuda_kernels")(ctypes.byref(kernels))
    symbols = _symbols(file)
    known = f"dyndeploy_{operator}_cuda_kernels"
    address = ctypes.cast(getattr(library, known), ctypes.c_void_p).value
    base = (address or 0) - next(offset for offset, name in symbols.items() if name == known)
    found = {}
    for kernel in kernels[:count]:
        symbol = symbols.get(kernel.function - base)
        if symbol is None:
            raise DynError(f"{operator}: {kernel.name.decode()} is at no symbol of {file.name}.")
        found[symbol] = Launch(kernel.name.decode(), kernel.threads, kernel.shared_bytes, kernel.blocks)
    return found


def _symbols(file: Path) -> dict[int, str]:
    listed = subprocess.run(["nm", "--defined-only", str(file)], check=True, capture_output=True, text=True).stdout
    lines = (line.split() for line in listed.splitlines())
    # nvcc 13 makes the host's half of a kernel template local to its file, which its mangled name says by an L.
    return {int(address, 16): re.sub(r"L(?=\d)", "", name) for address, kind, name in lines if kind in "tTwW"}


def compiled(operator: str, architecture: int) -> list[Kernel]:
    """The kernels of an operator for one architecture.

    Raises:
        DynError: they do not compile, or the operator's list of kernels is not that of the compiled ones.
    """
    with tempfile.TemporaryDirectory() as scratch:
        library, rest = Path(scratch) / "kernels.so", Path(scratch) / "rest.cpp"
        # In one file: --keep writes what comes of every file under its name, and two have the same one.
        problems = (f"{operator}/{file.name}" for file in sorted((PLUGINS / operator).glob("problem*.cpp")))
        sources = *problems, "common/problem.cpp", "common/status.cpp"
        rest.write_text("".join(f'#include "{source}"\n' for source in sources))
        command = [nvcc(), *flags(), f"-arch=sm_{architecture}", "-Xptxas=-v", f"-I{PLUGINS}", "-Xcompiler=-fPIC"]
        command += ["-shared", "--keep", f"--keep-dir={scratch}", "-o", str(library)]
        command += [*map(str, sorted((PLUGINS / operator).glob("cuda*.cu"))), str(rest)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DynError(f"The CUDA kernels of {operator} do not compile.", why=done.stderr[-2000:])
        code = "\n\t.section\n".join(
            subprocess.run([nvdisasm(), "-c", str(cubin)], check=True, capture_output=True, text=True).stdout
            for cubin in sorted(Path(scratch).glob("cuda*.cubin"))
        )
        launched = launches(operator, library)
    instructions, resources = dict(_instructions(code)), dict(_resources(done.stderr))
    if resources.keys() != launched.keys():
        raise DynError(
            f"{operator}: dyndeploy_{operator}_cuda_kernels does not list what is compiled.",
            why=f"only on one side: {sorted(resources.keys() ^ launched.keys())}",
        )
    return [
        Kernel(operator, launch, architecture, *resources[symbol], instructions[symbol])
        for symbol, launch in launched.items()
    ]


def _resources(log: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Symbol, and registers, stack and spilled bytes, from what ptxas says."""
    for part in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = map(int, re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", part)[:3])
        registers = re.search(r"Used (\d+) registers", part)
        assert registers
        yield part.split("'")[0], (int(registers[1]), stack, stores + loads)


def _instructions(code: str) -> Iterator[tuple[str, dict[str, int]]]:
    for part in re.split(r"^\.text\.", code, flags=re.MULTILINE)[1:]:
        symbol, _, body = part.partition(":")
        body = body.partition("\n\t.section")[0]
        counts = Counter({kind: len(pattern.findall(body)) for kind, pattern in _KINDS.items()})
        yield symbol.strip(), dict(counts)


def report(architectures: Sequence[int] = ARCHITECTURES) -> list[Kernel]:
    """All kernels, for each of some of the architectures in `_MULTIPROCESSORS`."""
    return [kernel for operator in operators() for a in architectures for kernel in compiled(operator, a)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", action="append", type=int, choices=list(_MULTIPROCESSORS), metavar="SM")
    parser.add_argument("--save", nargs="?", const="", metavar="FILE", help="write JSON; to results/ by default")
    arguments = parser.parse_args()
    kernels = report(arguments.architecture or ARCHITECTURES)
    console = Console(width=_WIDTH, highlight=False)
    for architecture in sorted({kernel.architecture for kernel in kernels}):
        console.print(heading(f"sm_{architecture}"))
        rows = (
            (
                f"{k.operator}: {k.launch.name.removeprefix(k.operator).strip()}",
                str(k.launch.threads),
                str(k.registers),
                f"{k.launch.shared_bytes / 1024:.1f}",
                str(k.spilled_bytes),
                str(k.stack_bytes),
                f"{k.blocks} ({k.launch.blocks})",
                f"{k.occupancy:.0%}",
                *(str(k.instructions[kind]) for kind in _KINDS),
            )
            for k in kernels
            if k.architecture == architecture
        )
        columns = ("kernel", "threads", "registers", "shared KiB", "spilled", "stack", "blocks", "occupancy", *_KINDS)
        console.print(table(columns, rows))
    console.print(
        "blocks: that a multiprocessor holds at once (that the tile was made for); mma: tensor-core instructions; "
        "load, copy, store 16: instructions that move 16 bytes per thread from global memory to registers, to "
        "shared memory, and back; local: loads and stores of local memory",
        style="dim",
    )
    if arguments.save is not None:
        file = Path(arguments.save) if arguments.save else record.RESULTS / "cuda-kernels.json"
        version = subprocess.run([nvcc(), "--version"], check=True, capture_output=True, text=True).stdout
        release = re.search(r"V([\d.]+)", version)
        record.save(file, [dataclasses.asdict(k) for k in kernels], {"nvcc": release[1] if release else "unknown"})


if __name__ == "__main__":
    main()
