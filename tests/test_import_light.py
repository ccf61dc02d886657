"""What must not be imported, and what must not be written."""

import fnmatch
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "sklearn",
    "polygraphy",
}


def imported_by(statement):
    """The top-level packages that a fresh interpreter has after `statement`."""
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "module",
    [
        "dyndeploy",
        "dyndeploy.errors",
        "dyndeploy.ops._spec",
        "dyndeploy.tensors",
        "dyndeploy.bundle",
    ],
)
def test_import_is_light(module):
    imported = imported_by(f"import {module}")
    assert "dyndeploy" in imported
    assert imported & HEAVY == set()


WITHOUT = """
import sys
sys.modules.update(torch=None, onnxscript=None)
import dyndeploy
from dyndeploy.errors import MissingPackageError
for name in ("export", "nn"):
    try:
        getattr(dyndeploy, name)
    except MissingPackageError as error:
        print(name, "|", error.fix)
import dyndeploy.pipeline.inspect, dyndeploy.runtimes.onnxruntime, dyndeploy.ops.dcnv2.onnx
print("the rest works")
"""


def test_without_torch_bundles_are_read_and_the_rest_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=True)
    fix = 'pip install "dyndeploy[export]"'
    assert done.stdout.splitlines() == [f"export | {fix}", f"nn | {fix}", "the rest works"]


def test_the_probe_sees_heavy_packages():
    assert imported_by("import dyndeploy.ops._onnx") >= {"onnx", "onnx_ir"}


@functools.cache
def lines_of_the_repository():
    """(place, line) of every text file that git does not ignore."""
    ignored = [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().split())]

    def kept(names):
        return sorted(n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in ignored))

    lines = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = kept(folders)
        for path in (Path(folder, name) for name in kept(files)):
            content = path.read_bytes()
            if b"\0" not in content:
                place = path.relative_to(ROOT)
                lines += [(f"{place}:{n}", line) for n, line in enumerate(content.decode("utf-8").splitlines(), 1)]
    return lines


# The patterns do not match themselves, nor do the examples, which stand in pieces.
FORBIDDEN = {
    "the place of a checkout, a home or a scratch folder": (
        re.compile(r"(?<![\w.-])/(?:work|root|home|tmp|Users)/"),
        "/".join(["see ", "tmp", "x"]),
    ),
    "a package index: where packages come from is the user's choice": (
        re.compile(r"pythonhosted\.org|pypi\.org/simple|download\.pytorch\.org|index[-_]url"),
        "-".join(["pip install -", "", "extra", "index", "url"]),
    ),
}


@pytest.mark.parametrize(("pattern", "example"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_no_file_mentions(pattern, example):
    assert pattern.search(example)
    lines = lines_of_the_repository()
    assert len({place.split(":")[0] for place, _ in lines}) > 30  # the walk sees the repository
    assert [f"{place}: {line.strip()}" for place, line in lines if pattern.search(line)] == []
