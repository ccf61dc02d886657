"""Builds that end badly: whatever happens, the user is told why, and the bundle is as it was."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import dyndeploy
from dyndeploy.bundle import ONNX
from dyndeploy.errors import DynError
from dyndeploy.tensorrt import store
from dyndeploy.tensorrt.record import find


def tree(bundle):
    """Every file of a bundle with its content, but for the lock of builds."""
    return {f: f.read_bytes() for f in sorted(bundle.path.rglob("*")) if f.is_file() and f.name != store.LOCK}


def in_engines(bundle):
    """What lies in engines/."""
    return sorted(f.name for f in (bundle.path / "engines").rglob("*") if f.is_file())


def error_of(bundle, target="tensorrt", **options):
    """The error of a build, after which the bundle is as it was."""
    before = tree(bundle)
    with pytest.raises(DynError) as caught:
        dyndeploy.build(bundle, target, **options)
    assert tree(bundle) == before
    return caught.value


def wait_for(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def alive(pid):
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_abort_inside_the_vendor_is_a_message(bundle, fake_process):
    fake_process(at="build", do="abort", say=["internal check failed"])
    error = error_of(bundle)
    assert error.what == (
        f"{bundle.path} cannot be built for tensorrt: the process that builds it was ended by SIGABRT "
        "while building the engine."
    )
    assert "The vendor's library did so, not this program. Its last lines:" in error.why
    assert "  internal check failed" in error.why
    assert "  libfake: terminating" in error.why  # printed, not logged
    assert "--log FILE" in error.fix


@pytest.mark.parametrize(
    ("do", "what", "why"),
    [
        ("exit", "ended with status 3 while parsing the graph", "The vendor's library did so"),
        ("kill", "was ended by SIGKILL while parsing the graph", "the system does so when memory runs out"),
        ("raise", "cannot be built for tensorrt.", "RuntimeError: a binding that was not expected"),
    ],
)
def test_other_ends(do, what, why, bundle, fake_process):
    fake_process(at="parse", do=do)
    error = error_of(bundle)
    assert what in error.what
    assert why in error.why


@pytest.mark.parametrize(
    ("line", "cause", "fix"),
    [
        ("[pass.cpp:337] Cannot compile operation 'node_linear' for Turing (SM75): FP32 GEMM", "node_linear", "turing"),
        ("Error Code 1: Internal Error (Unsupported SM: 0x900)", "has no kernels for the GPU", "another version"),
        (
            "Dimension mismatch for tensor image and profile 0. At dimension axis 2, profile has min=32, opt=32, "
            "max=48 but tensor has 32. In validate",
            "Dim 2 of image is 32 in the graph, and the profile asks for min=32, opt=32, max=48",
            "--dim",
        ),
        (
            "Tactic needs more. Try increasing the workspace size",
            "more scratch memory than it was allowed",
            "workspace",
        ),
        ("Error Code 2: OutOfMemory", "The memory did not suffice", "smaller --dim"),
        ("Failed to find any supported plugin/custom tactic format", "does not support the dtypes", "--precision fp32"),
        ("CUDA driver version is insufficient for CUDA runtime version", "driver is older", "nvidia-smi"),
        ("dyndeploy: node 'bend': group = 3 does not divide the 8 outputs of W", "group = 3 does not divide", "Export"),
        ("something that nobody has seen before", "something that nobody has seen before", "--log FILE"),
    ],
)
def test_a_refusal_has_a_cause(line, cause, fix, bundle, fake):
    fake(at="build", do="refuse", say=[line])
    error = error_of(bundle)
    assert cause in error.why
    assert fix in error.fix


def test_a_missing_driver_is_no_cause_where_none_is_needed(bundle, fake):
    fake(at="build", do="refuse", say=["CUDA driver version is insufficient for CUDA runtime version", "no such thing"])
    error = error_of(bundle, "tensorrt-rtx")
    assert "driver is older" not in error.why
    assert "no such thing" in error.why


def test_a_failed_build_leaves_the_engine_that_was_there(bundle, fake):
    dyndeploy.build(bundle, "tensorrt")
    fake(at="build", do="refuse")
    error_of(bundle, force=True)
    fake()
    assert dyndeploy.build(bundle, "tensorrt").hit


def test_an_unknown_op_of_ours(small, tmp_path, fake):
    def change(model):
        small.node_of(model, "bend").op_type = "ModulatedDeformConv"

    error = error_of(small.small_bundle(tmp_path / "small", change=change))
    assert error.what == "Node bend is a dyndeploy::ModulatedDeformConv, and there is no such operator."
    assert error.fix.startswith("ModulatedDeformConv2d?")


@pytest.mark.parametrize(
    ("op", "domain", "near"),
    [("DecoupledDynamicFilters", "com.example", "DecoupledDynamicFilter"), ("Frobnicate", "com.example", None)],
)
def test_an_unknown_op_of_others(op, domain, near, small, tmp_path, fake):
    def change(model):
        node = small.node_of(model, "filter")
        node.op_type, node.domain = op, domain
        model.opset_import.add(domain=domain, version=1)

    error = error_of(small.small_bundle(tmp_path / "small", change=change))
    assert "Plugin not found" not in str(error)
    assert error.what.endswith(f"cannot be built for tensorrt: nothing runs node filter ({op}).")
    assert "The graph asks for:\n  ModulatedDeformConv2d (version '1', namespace 'dyndeploy')" in error.why
    assert f"  {op} (version '1', namespace 'dyndeploy')" in error.why
    assert "Registered are:\n" in error.why
    assert "  ROIAlign_TRT (version '2', namespace '')" in error.why
    if near:
        assert "The nearest is DecoupledDynamicFilter (version '1', namespace 'dyndeploy')" in error.why
        assert error.fix == "Is DecoupledDynamicFilter meant? Export the model again."
    else:
        assert "The nearest" not in error.why
        assert error.fix == "Write the model without Frobnicate, or give it a function body."


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("group", None, "Node bend (ModulatedDeformConv2d) has no attribute group."),
        ("group", 0, "has a broken attribute group.\n  why: ModulatedDeformConv2d: group=0 is outside >= 1."),
        ("strides", [1], "has a broken attribute strides.\n  why: ModulatedDeformConv2d: strides=[1] is not 2 ints."),
        ("relu", 2, "has a broken attribute relu.\n  why: ModulatedDeformConv2d: relu=2 is outside 0..1."),
        ("mask_scale", "two", "has a broken attribute mask_scale."),
        ("deform_groups", 2, "has an unknown attribute deform_groups."),
    ],
)
def test_a_broken_attribute(name, value, message, small, tmp_path, fake):
    def change(model):
        small.set_attribute(small.node_of(model, "bend"), name, value)

    assert message in str(error_of(small.small_bundle(tmp_path / "small", change=change)))


def test_a_corrupt_bundle(bundle, fake, small, tmp_path):
    content = bundle.onnx_path.read_bytes()
    bundle.onnx_path.write_bytes(content[:-100])
    error = error_of(bundle)
    assert error.what == f"{bundle.onnx_path} is not the file that was exported."
    bundle.manifest.files[ONNX] = dyndeploy.bundle.file_digest(bundle.onnx_path)
    assert "is not an ONNX file" in error_of(bundle).what
    bundle.onnx_path.unlink()
    with pytest.raises(DynError, match=r"lacks model\.onnx"):
        dyndeploy.build(bundle.path, "tensorrt")
    (bundle.path / "manifest.json").write_text("{")
    with pytest.raises(DynError, match=r"manifest.json cannot be read"):
        dyndeploy.build(bundle.path, "tensorrt")


def test_a_disk_that_is_full_while_the_engine_is_written(bundle, fake, monkeypatch):
    dyndeploy.build(bundle, "tensorrt")
    whole = store.scratch

    @contextmanager
    def full(folder, model):
        with whole(folder, model) as made:
            (made / "engine").symlink_to("/dev/full")  # the kernel says ENOSPC, as a full disk does
            yield made

    monkeypatch.setattr(store, "scratch", full)
    error = error_of(bundle, force=True)
    assert re.search(r"the engine \(\d+ bytes\) cannot be written", error.what)
    assert error.why == "[Errno 28] No space left on device"
    assert dyndeploy.build(bundle, "tensorrt").hit


@pytest.mark.parametrize("engine", ["same", "other"])
def test_a_disk_that_is_full_while_the_record_is_written(engine, bundle, fake, monkeypatch):
    dyndeploy.build(bundle, "tensorrt")

    def full(_path, _text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dyndeploy.tensorrt.record.write_atomically", full)
    error = error_of(bundle, force=True, workspace=None if engine == "same" else 1)
    assert "record.json cannot be written" in error.what
    assert dyndeploy.build(bundle, "tensorrt").hit


def test_a_folder_that_cannot_be_written(bundle, fake):
    (bundle.path / "engines").write_text("a file")
    assert error_of(bundle).what == f"{bundle.path}/engines/tensorrt cannot be written."


def test_an_export_while_an_engine_is_built(bundle, fake, small):
    def exported_anew(_phases):
        small.small_bundle(bundle.path, change=lambda model: setattr(model.graph, "doc_string", "newer"))

    with pytest.raises(DynError, match="changed while the engine was built"):
        dyndeploy.build(bundle, "tensorrt", monitor=exported_anew)
    assert in_engines(bundle) == [store.LOCK]


def test_two_builds_of_one_bundle_at_once(bundle, fake_process, tmp_path):
    """The second one waits, and finds the engine of the first."""
    pid = tmp_path / "pid"
    fake_process(at="build", do="sleep", seconds=1.5, pid=str(pid))
    first, steps = [], []
    thread = threading.Thread(target=lambda: first.append(dyndeploy.build(bundle, "tensorrt")))
    thread.start()
    wait_for(pid.exists, "the first build")
    second = dyndeploy.build(bundle, "tensorrt", progress=steps.append)
    thread.join()
    assert "waiting for another build of this bundle" in steps
    assert (first[0].hit, second.hit) == (False, True)
    assert first[0].record == second.record


def test_who_waits_builds_when_the_first_one_fails(bundle, fake_process, tmp_path):
    pid = tmp_path / "pid"
    fake_process(at="build", do="sleep", seconds=1.0, pid=str(pid), ignore_plugins=["DecoupledDynamicFilter"])
    failed = []

    def fail():
        with pytest.raises(DynError, match="was to be a plugin"):
            dyndeploy.build(bundle, "tensorrt")
        failed.append(True)

    thread = threading.Thread(target=fail)
    thread.start()
    wait_for(pid.exists, "the first build")
    fake_process()
    second = dyndeploy.build(bundle, "tensorrt")
    thread.join()
    assert (failed, second.hit, second.reason) == ([True], False, "there is none yet")


def test_an_interrupt_ends_the_process_that_builds(bundle, fake_process, tmp_path):
    pid = tmp_path / "pid"
    fake_process(at="build", do="sleep", seconds=60, pid=str(pid))

    def interrupt(_phases):
        wait_for(lambda: pid.is_file() and pid.read_text(), "the build")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dyndeploy.build(bundle, "tensorrt", monitor=interrupt)
    assert not alive(int(pid.read_text()))
    assert in_engines(bundle) == [store.LOCK]


PROGRAM = """
import dataclasses, sys
from dyndeploy.tensorrt import gpu, vendor
from dyndeploy.tensorrt.record import Gpu
target = vendor.TARGETS["tensorrt-rtx"]
vendor.TARGETS["tensorrt-rtx"] = dataclasses.replace(target, package="fake_builder", minimum="0")
from dyndeploy.cli import main
main()
"""


def command(bundle, *options):
    """The command line, on the made-up vendor."""
    arguments = ["build", bundle.path, "--target", "tensorrt-rtx", "--no-plugins", *options]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_a_signal_to_the_command(number, bundle, fake_process, tmp_path):
    pid = tmp_path / "pid"
    fake_process(at="build", do="sleep", seconds=60, pid=str(pid))
    process = command(bundle)
    wait_for(lambda: pid.is_file() and pid.read_text(), "the build")
    os.killpg(process.pid, number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in printed
    wait_for(lambda: not alive(int(pid.read_text())), "the end of the process that builds")
    # After Ctrl-C nothing is left; what a killed command leaves, the next build removes.
    left = set(in_engines(bundle)) - {store.LOCK}
    assert left == set() if number == signal.SIGINT else "model.onnx" in left
    fake_process()
    record = dyndeploy.build(bundle, "tensorrt-rtx").record
    assert in_engines(bundle) == [store.LOCK, record.file, "record.json"]
    assert find(bundle, "tensorrt-rtx") == record
