"""The bundle: opened, refused, written whole or not at all."""

import json
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from dyndeploy import bundle as bundle_module
from dyndeploy.bundle import (
    FORMAT,
    GOLDENS,
    MANIFEST,
    ONNX,
    PROGRAM,
    Bundle,
    Manifest,
    OpRecord,
    check_target,
    file_digest,
    golden_key,
    new_bundle_folder,
)
from dyndeploy.errors import DynError
from dyndeploy.tensors import Dim, TensorSpec

GOLDEN = {
    golden_key("min", "inputs", "x"): np.zeros((1, 3), np.float32),
    golden_key("min", "outputs", "y/0"): np.ones((1, 2)),
    golden_key("max", "inputs", "x"): np.zeros((8, 3), np.float32),
    golden_key("max", "outputs", "y/0"): np.full((8, 2), 2.0),
}


def write_bundle(folder, content=b"one"):
    """A bundle as small as one can be; the model's bytes are not read here."""
    with new_bundle_folder(folder) as scratch:
        (scratch / ONNX).write_bytes(content)
        (scratch / PROGRAM).write_bytes(b"program")
        save_file(GOLDEN, scratch / GOLDENS)
        manifest = Manifest(
            created="2026-01-01T00:00:00+00:00",
            versions={"torch": "2.13.0"},
            precision="fp32",
            io_precision="fp32",
            body="standard",
            dims={"batch": Dim(min=1, opt=8, max=8)},
            inputs=[TensorSpec(name="x", shape=("batch", 3), range=(0, 1))],
            outputs=[TensorSpec(name="y/0", shape=("batch", 2))],
            nodes={},
            ops=[OpRecord(name="n0", type="ModulatedDeformConv2d", folder="dcnv2", reference="relu", source="op")],
            kept_fp32=[],
            seed=0,
            goldens=["min", "max"],
            files={name: file_digest(scratch / name) for name in (ONNX, PROGRAM, GOLDENS)},
        )
        (scratch / MANIFEST).write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_bundle(tmp_path / "digits")


def names_in(path):
    return sorted(p.name for p in path.iterdir())


def test_open(folder):
    bundle = Bundle.open(str(folder))
    assert (bundle.name, bundle.onnx_path, bundle.program_path) == ("digits", folder / ONNX, folder / PROGRAM)
    assert bundle.manifest.format == FORMAT
    assert bundle.manifest.inputs[0].shape == ("batch", 3)
    assert bundle.changed_files() == []


def test_name_is_the_folders_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert Bundle.open(".").name == "digits"


def test_goldens(folder):
    bundle = Bundle.open(folder)
    inputs, outputs = bundle.goldens("max")
    np.testing.assert_array_equal(inputs["x"], np.zeros((8, 3), np.float32))
    np.testing.assert_array_equal(outputs["y/0"], np.full((8, 2), 2.0))  # a name may have a slash
    assert outputs["y/0"].dtype == np.float64
    with pytest.raises(DynError, match=r"(?s)digits has no goldens at opt\..*fix: one of min, max"):
        bundle.goldens("opt")


def test_changed_files(folder):
    (folder / ONNX).write_bytes(b"other")
    assert Bundle.open(folder).changed_files() == [ONNX]


def test_file_digest(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == ("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_save_manifest(folder):
    bundle = Bundle.open(folder)
    bundle.manifest.check = {"verdict": "identical", "text": "25 µs"}
    bundle.save_manifest()
    assert Bundle.open(folder).manifest == bundle.manifest
    assert names_in(folder) == sorted([ONNX, PROGRAM, MANIFEST, GOLDENS])
    assert stat.S_IMODE((folder / MANIFEST).stat().st_mode) == 0o644  # a server may be another user


def test_a_manifest_that_cannot_be_saved_stays_as_it_was(folder, monkeypatch):
    before = (folder / MANIFEST).read_bytes()
    bundle = Bundle.open(folder)
    bundle.manifest.seed = 1

    def no_space(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(bundle_module.os, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        bundle.save_manifest()
    assert (folder / MANIFEST).read_bytes() == before
    assert names_in(folder) == sorted([ONNX, PROGRAM, MANIFEST, GOLDENS])


def change_manifest(folder, **changes):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / MANIFEST).unlink(), f"has no {MANIFEST}: it is not a bundle"),
        (
            lambda f: (f / MANIFEST).write_text("{"),
            f"(?s){MANIFEST} cannot be read.*fix: Export the model again",
        ),
        (lambda f: (f / MANIFEST).write_text("[]"), f"{MANIFEST} cannot be read"),
        (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), f"{MANIFEST} cannot be read"),
        (lambda f: (f / MANIFEST).write_text("{}"), f"has format None, this version reads {FORMAT}"),
        (
            lambda f: change_manifest(f, format=FORMAT + 1),
            f"(?s)has format {FORMAT + 1}, .*Export the model again",
        ),
        (lambda f: change_manifest(f, precision="int3"), "(?s)cannot be read.*precision"),
        (lambda f: change_manifest(f, surplus=1), "(?s)cannot be read.*surplus"),
        (
            lambda f: change_manifest(f, dims={"n": {"min": 2, "opt": 1, "max": 3}}),
            "(?s)cannot be read.*min <= opt <= max",
        ),
        (lambda f: (f / ONNX).unlink(), f"digits lacks {ONNX}"),
        (lambda f: [(f / name).unlink() for name in (PROGRAM, GOLDENS)], f"lacks {PROGRAM}, {GOLDENS}"),
    ],
)
def test_what_cannot_be_opened(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DynError, match=message):
        Bundle.open(folder)


def test_no_folder(tmp_path, folder):
    for path in (tmp_path / "none", folder / ONNX):
        with pytest.raises(DynError, match=r"(?s)is not a folder: it is not a bundle\..*dyndeploy export RECIPE"):
            Bundle.open(path)


def test_a_new_bundle_replaces_the_old_one(tmp_path, folder):
    (folder / "engines").mkdir()
    write_bundle(folder, b"two")
    assert (folder / ONNX).read_bytes() == b"two"
    assert names_in(folder) == sorted([ONNX, PROGRAM, MANIFEST, GOLDENS])
    assert names_in(tmp_path) == ["digits"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_the_old_bundle_is_there_until_the_end(folder):
    with new_bundle_folder(folder) as scratch:
        (scratch / ONNX).write_bytes(b"half")
        assert scratch.parent == folder.parent  # the same file system: moved, not copied
        assert (folder / ONNX).read_bytes() == b"one"


class Interrupted(BaseException):
    """As KeyboardInterrupt is: no Exception."""


def write_half(folder, error):
    with new_bundle_folder(folder) as scratch:
        (scratch / ONNX).write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_error_leaves_the_old_bundle_and_nothing_else(tmp_path, folder, error):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(error):
        write_half(folder, error)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert names_in(tmp_path) == ["digits"]


def test_an_error_leaves_no_new_folder(tmp_path):
    with pytest.raises(Interrupted):
        write_half(tmp_path / "new", Interrupted)
    assert names_in(tmp_path) == []


def test_parents_are_made_and_an_empty_folder_is_taken(tmp_path):
    write_bundle(tmp_path / "a" / "b" / "new")
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty")
    assert Bundle.open(tmp_path / "a" / "b" / "new").name == "new"
    assert Bundle.open(tmp_path / "empty").name == "empty"


def test_a_link_still_leads_to_the_bundle(tmp_path, folder):
    link = tmp_path / "latest"
    link.symlink_to(folder)
    write_bundle(link, b"two")
    assert link.is_symlink()
    assert (folder / ONNX).read_bytes() == b"two"
    assert names_in(tmp_path) == ["digits", "latest"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_that_is_not_ours_is_overwritten(tmp_path, kind):
    target = tmp_path / "thesis"
    if kind == "folder":
        target.mkdir()
        (target / "chapter1.tex").write_text("years of work")
    else:
        target.write_text("years of work")
    for refuses in (write_bundle, check_target):
        with pytest.raises(DynError, match=r"(?s)thesis exists and is not a bundle\..*fix: Choose another folder"):
            refuses(target)
    assert (target / "chapter1.tex" if kind == "folder" else target).read_text() == "years of work"
    assert names_in(tmp_path) == ["thesis"]


def test_a_bundle_with_files_of_the_user_is_not_replaced(folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DynError, match=r"holds more than a bundle: notes\.txt"):
        check_target(folder)
    (folder / "notes.txt").unlink()
    (folder / "engines").mkdir()
    check_target(folder)


def test_a_manifest_of_something_else_is_not_a_bundle(tmp_path):
    folder = tmp_path / "webapp"
    folder.mkdir()
    (folder / MANIFEST).write_text('{"name": "PWA"}')
    with pytest.raises(DynError, match="exists and is not a bundle"):
        check_target(folder)


def test_folders_made_for_a_bundle_that_failed_are_removed(tmp_path):
    with pytest.raises(RuntimeError), new_bundle_folder(tmp_path / "new" / "a" / "b"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DynError, match="cannot be written"), new_bundle_folder(tmp_path / "file" / "bundle"):
        pass


@pytest.mark.parametrize("content", [b"not safetensors", None, {}])
def test_goldens_that_cannot_be_read(tmp_path, content):
    bundle = Bundle.open(write_bundle(tmp_path / "net"))
    file = bundle.path / GOLDENS
    file.unlink()
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file(content, file)
    with pytest.raises(DynError, match=r"goldens\.safetensors cannot be read"):
        bundle.goldens("min")
