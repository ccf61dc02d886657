"""`dyndeploy.build` with a made-up vendor: what it is told, what is recorded, and when it is asked at all."""

import json
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import onnx
import pytest

import dyndeploy
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.tensorrt import vendor
from dyndeploy.tensorrt.gpu import capabilities
from dyndeploy.tensorrt.model import prepare
from dyndeploy.tensorrt.record import EngineRecord, Gpu, Runtime, find, records

FIXED = {"batch": (1, 1, 2)}


def told(result):
    """What the made-up vendor was told: its engines say so."""
    return json.loads(Path(result.engine).read_text())


def test_a_record_says_all_of_an_engine(bundle, fake):
    result = dyndeploy.build(bundle, "tensorrt")
    record = find(bundle, "tensorrt")
    assert record == result.record
    assert record.path(bundle) == Path(result.engine)
    assert (record.target, record.precision, record.io_precision, record.body) == (
        "tensorrt",
        "fp32",
        "fp32",
        "standard",
    )
    assert record.bytes == Path(result.engine).stat().st_size
    assert record.runtime == Runtime(package="fake_builder", version="11.4.0.106")
    assert record.onnx_sha256 == bundle.manifest.files["model.onnx"]
    assert record.gpus == (Gpu(compute_capability="8.9", name="GPU 1"),)
    assert not record.plugins_embedded
    assert record.dims == bundle.manifest.dims
    assert record.profiles == ({"image": ((1, 3, 8, 8), (2, 3, 16, 24), (4, 3, 32, 32))},)
    assert [(t.name, t.mode, t.dtype, t.shape, t.format) for t in record.tensors] == [
        ("image", "input", "float32", (-1, 3, -1, -1), "linear"),
        ("head", "output", "float32", (-1, 5, -1, -1), "linear"),
    ]
    assert [(o.name, o.how, o.version, o.layers, o.dtype, o.format) for o in record.ops] == [
        ("bend", "plugin", "1", 1, "float32", "NHWC"),
        ("filter", "plugin", "1", 1, "float32", "NHWC"),
    ]
    assert datetime.fromisoformat(record.created).tzinfo
    assert record.seconds > 0
    assert (result.hit, result.reason, result.changes, result.warnings) == (False, "there is none yet", (), ())
    assert {f.name for f in Path(result.engine).parent.iterdir()} == {record.file, "record.json", ".lock"}


def test_what_the_vendor_is_told(bundle, fake):
    defaults = told(dyndeploy.build(bundle, "tensorrt"))
    assert defaults["strongly_typed"]
    assert defaults["initialised"]  # TensorRT's own plugins are there
    assert defaults["flags"] == []  # its own default would round float32 factors
    assert defaults["formats"] == [1]
    assert defaults["profiles"] == [{"image": [[1, 3, 8, 8], [2, 3, 16, 24], [4, 3, 32, 32]]}]
    assert "WORKSPACE" not in defaults and "level" not in defaults
    given = told(
        dyndeploy.build(
            bundle, "tensorrt", workspace=2**30, optimization_level=5, tf32=True, embed_plugins=True, dims=FIXED
        )
    )
    assert (given["WORKSPACE"], given["level"], given["flags"]) == (2**30, 5, ["TF32"])
    assert given["plugins"] == [str(fake.library)]
    assert given["profiles"][0]["image"] == [[1, 3, 8, 8], [1, 3, 16, 24], [2, 3, 32, 32]]


def test_generations_of_gpus(bundle, fake):
    every = dyndeploy.build(bundle, "tensorrt-rtx")
    assert told(every)["capabilities"] == ["SM80", "SM86", "SM89", "SM120"]
    some = dyndeploy.build(bundle, "tensorrt-rtx", gpus="ada,8.0")
    assert told(some)["capabilities"] == ["SM80", "SM89"]
    assert [str(gpu) for gpu in some.record.gpus] == ["sm_80", "sm_89"]
    assert told(dyndeploy.build(bundle, "tensorrt-rtx", gpus=["turing"], plugins=False))["capabilities"] == ["SM75"]


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ("hopper", r"cannot be built for hopper \(compute capability 9.0\)"),
        ("amper", "'amper', which is no generation of GPUs(.|\n)*ampere\\?"),
        ("", "'', which is no generation"),
        ("turing", "no kernels for Turing"),
    ],
)
def test_gpus_that_cannot_be(gpus, message, bundle, fake):
    with pytest.raises(DynError, match=message):
        dyndeploy.build(bundle, "tensorrt-rtx", gpus=gpus)


def test_capabilities_are_written_in_many_ways():
    known = ["7.5", "8.0", "8.6", "8.9", "12.0"]
    assert capabilities(["SM_86", "120", "8.6"], known) == ("8.6", "12.0")
    assert capabilities(None, known) == ("8.0", "8.6", "8.9", "12.0")
    with pytest.raises(DynError, match="gpus is empty"):
        capabilities([], known)


def test_a_second_build_is_a_hit(bundle, fake):
    first = dyndeploy.build(bundle, "tensorrt")
    fake(at="parse", do="raise")  # nobody asks the vendor
    second = dyndeploy.build(bundle, "tensorrt")
    assert second.hit
    assert (second.engine, second.record) == (first.engine, first.record)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"force": True}, "it was asked for"),
        ({"precision": "fp16"}, "precision changed from fp32 to fp16"),
        ({"plugins": False}, "bodies changed from none to bend, filter; plugin library changed"),
        ({"inline": ["bend"]}, "bodies changed from none to bend"),
        ({"embed_plugins": True}, "embedding changed from none to library inside"),
        ({"workspace": 1}, "workspace changed from none to 1"),
        ({"optimization_level": 0}, "optimization level changed from none to 0"),
        ({"tf32": True}, "tf32 changed from none to on"),
        (
            {"dims": FIXED},
            "dims changed from batch=1:2:4, height=8:16:32, width=8:24:32 "
            "to batch=1:1:2, height=8:16:32, width=8:24:32",
        ),
    ],
)
def test_another_configuration_is_a_miss(options, reason, bundle, fake):
    first = dyndeploy.build(bundle, "tensorrt")
    second = dyndeploy.build(bundle, "tensorrt", **options)
    assert (second.hit, second.reason) == (False, reason)
    assert dyndeploy.build(bundle, "tensorrt", **{**options, "force": False}).hit
    # One engine per target: the old file is gone, unless it is the same.
    assert Path(first.engine).exists() == (first.engine == second.engine)
    assert {f.name for f in Path(second.engine).parent.glob("*.engine")} == {second.record.file}


def test_another_runtime_library_gpu_or_model_is_a_miss(bundle, fake, monkeypatch, small):
    dyndeploy.build(bundle, "tensorrt")
    monkeypatch.setattr("fake_builder.__version__", "11.5.0")
    fake(version="11.5.0")
    newer = dyndeploy.build(bundle, "tensorrt")
    assert newer.reason == "runtime changed from fake_builder 11.4.0.106 to fake_builder 11.5.0"
    monkeypatch.setattr("dyndeploy.tensorrt.gpu.current_gpu", lambda: Gpu(compute_capability="9.0", name="GPU 2"))
    assert dyndeploy.build(bundle, "tensorrt").reason == "gpus changed from GPU 1 (sm_89) to GPU 2 (sm_90)"
    fake.library.write_bytes(b"other plugins")
    assert dyndeploy.build(bundle, "tensorrt").reason == "plugin library changed"
    exported = small.small_bundle(bundle.path, change=lambda m: m.graph.initializer[0].ClearField("doc_string"))
    assert dyndeploy.build(exported, "tensorrt").hit
    exported = small.small_bundle(bundle.path, change=lambda m: setattr(m.graph, "doc_string", "another"))
    assert dyndeploy.build(exported, "tensorrt").reason == "onnx changed"


def test_a_graph_that_another_version_makes_otherwise_is_a_miss(bundle, fake, monkeypatch):
    dyndeploy.build(bundle, "tensorrt", plugins=False)
    monkeypatch.setattr("dyndeploy.tensorrt.model.bodies", _other_bodies)
    assert dyndeploy.build(bundle, "tensorrt", plugins=False).reason == "graph changed"


def _other_bodies(folders, **options):
    from dyndeploy.ops._onnx import bodies

    found = bodies(folders, **options)
    for function in found.values():
        function.doc_string = "another version's"
    return found


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: next(folder.glob("*.engine")).write_bytes(b"half an eng"), r"model-\w+\.engine is damaged"),
        (lambda folder: next(folder.glob("*.engine")).unlink(), r"\.engine is missing"),
        (lambda folder: (folder / "record.json").write_text('{"format": 1, "tar'), "record.json cannot be read"),
        (lambda folder: (folder / "record.json").write_text('{"format": 7}'), "record.json cannot be read"),
        (lambda folder: (folder / "record.json").unlink(), "there is none yet"),
    ],
)
def test_a_spoilt_engine_is_built_again(spoil, reason, bundle, fake):
    first = dyndeploy.build(bundle, "tensorrt")
    spoil(Path(first.engine).parent)
    second = dyndeploy.build(bundle, "tensorrt")
    assert not second.hit
    assert re.search(reason, second.reason)
    assert dyndeploy.build(bundle, "tensorrt").hit


def test_records_of_a_bundle(bundle, fake):
    with pytest.raises(DynError, match=r"has no engine for tensorrt(.|\n)*dyndeploy build .*small --target tensorrt"):
        find(bundle, "tensorrt")
    assert records(bundle) == {}
    engine = dyndeploy.build(bundle, "tensorrt").record
    dyndeploy.build(bundle, "tensorrt-rtx")
    (bundle.path / "engines" / "tensorrt-rtx" / "record.json").write_text("{}")
    found = records(bundle)
    assert found["tensorrt"] == engine
    assert isinstance(found["tensorrt-rtx"], DynError)


def test_a_record_of_elsewhere_is_refused(bundle, fake):
    folder = Path(dyndeploy.build(bundle, "tensorrt").engine).parent
    for change in ({"file": "../../model.onnx"}, {"target": "tensorrt-rtx"}):
        content = json.loads((folder / "record.json").read_text()) | change
        (folder / "record.json").write_text(json.dumps(content))
        with pytest.raises(DynError, match="is not the record of an engine for tensorrt"):
            EngineRecord.load(folder)


def test_warnings_of_the_vendor_are_handed_on(bundle, fake):
    fake(at="build", say=["not an error"])
    result = dyndeploy.build(bundle, "tensorrt")
    assert result.warnings == ()  # the made-up vendor says it as an error, and builds all the same


def test_the_log_of_the_vendor_is_kept(bundle, fake, tmp_path):
    fake(at="build", say=["something to keep"])
    dyndeploy.build(bundle, "tensorrt", log=tmp_path / "log.txt")
    text = (tmp_path / "log.txt").read_text()
    assert "ERROR: something to keep" in text
    assert "VERBOSE: Layers:" in text
    with pytest.raises(DynError, match="cannot be written"):
        dyndeploy.build(bundle, "tensorrt", log=tmp_path)


def test_progress(bundle, fake):
    steps, phases = [], []
    dyndeploy.build(bundle, "tensorrt", progress=steps.append, monitor=phases.append)
    assert steps == [
        "preparing the graph",
        "building: there is none yet",
        "loading fake_builder",
        "parsing the graph",
        "building the engine",
        "writing the engine",
    ]
    assert [[(p.name, p.done, p.total) for p in at] for at in phases][:2] == [
        [("Building engine", 0, 2)],
        [("Building engine", 0, 2), ("Optimizing graph", 0, 3)],
    ]
    assert [("Building engine", 1, 2), ("Timing kernels", 0, 3)] in [
        [(p.name, p.done, p.total) for p in at] for at in phases
    ]


def test_timings_are_kept_for_other_builds(bundle, fake, caches, small, tmp_path):
    fake(timing="first")
    assert told(dyndeploy.build(bundle, "tensorrt"))["timings"] == []
    (file,) = (caches / "timings").glob("*.cache")
    assert file.name == "fake_builder_11.4.0.106_GPU_1_8.9.cache"
    assert file.read_text() == "timings first"
    fake(timing="second")
    other = small.small_bundle(tmp_path / "other")
    assert told(dyndeploy.build(other, "tensorrt"))["timings"] == ["first"]
    assert file.read_text() == "timings first second"
    assert "timings" not in told(dyndeploy.build(bundle, "tensorrt-rtx"))  # compiles where it is loaded


def test_timings_of_another_kind_are_started_anew(bundle, fake, caches):
    file = caches / "timings" / "fake_builder_11.4.0.106_GPU_1_8.9.cache"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    result = dyndeploy.build(bundle, "tensorrt")
    assert any("is not of this runtime and GPU; it is started anew" in line for line in result.warnings)
    assert file.read_text() == "timings conv"


def test_a_float32_graph_is_cast(bundle, fake):
    prepared = prepare(bundle, precision="fp16")
    model = onnx.ModelProto.FromString(prepared.content)
    onnx.checker.check_model(model)
    assert [i.type.tensor_type.elem_type for i in (*model.graph.input, *model.graph.output)] == [1, 1]
    weights = {t.name: onnx.numpy_helper.to_array(t).dtype for t in model.graph.initializer}
    assert set(weights.values()) == {np.dtype("float16")}
    assert {f.name for f in model.functions} == {"ModulatedDeformConv2d", "DecoupledDynamicFilter"}
    assert "DeformConv" in {n.op_type for f in model.functions for n in f.node}
    result = dyndeploy.build(bundle, "tensorrt", precision="fp16")
    assert result.record.precision == "fp16"
    assert result.changes == ("cast from fp32 to fp16",)
    assert bundle.changed_files() == []


def test_a_half_graph_is_not_widened(small, tmp_path, fake):
    half = small.small_bundle(tmp_path / "half", precision="fp16")
    for precision in ("fp32", "bf16"):
        with pytest.raises(DynError, match=f"is fp16, and cannot become {precision}(.|\n)*--precision {precision}"):
            dyndeploy.build(half, "tensorrt", precision=precision)
    assert dyndeploy.build(half, "tensorrt").record.precision == "fp16"


def test_bodies_instead_of_plugins(bundle, fake):
    result = dyndeploy.build(bundle, "tensorrt", plugins=False)
    assert [(o.how, o.version, o.layers, o.format) for o in result.record.ops] == [("inlined", None, 2, None)] * 2
    assert result.record.plugin_sha256 is None
    assert result.record.body == "gridsample"
    assert result.changes == ("all from bodies", "GridSample body of ModulatedDeformConv2d")
    model = onnx.ModelProto.FromString(prepare(bundle, plugins=False).content)
    ops = {f.name: {n.op_type for n in f.node} for f in model.functions}
    assert "GridSample" in ops["ModulatedDeformConv2d"]
    assert "DeformConv" not in ops["ModulatedDeformConv2d"]


def test_a_bundle_that_has_the_gridsample_body_keeps_it(small, tmp_path):
    bundle = small.small_bundle(tmp_path / "small", gridsample=True)
    prepared = prepare(bundle, plugins=False)
    assert (prepared.body, prepared.changes) == ("gridsample", ("all from bodies",))


@pytest.mark.parametrize("inline", ["bend", "ModulatedDeformConv2d"])
def test_some_nodes_from_their_bodies(inline, bundle, fake):
    result = dyndeploy.build(bundle, "tensorrt", inline=[inline])
    assert {o.name: o.how for o in result.record.ops} == {"bend": "inlined", "filter": "plugin"}
    assert result.record.plugin_sha256 is not None


def test_inline_names_something(bundle, fake):
    with pytest.raises(DynError, match=r"inline names 'bent'(.|\n)*bend\?"):
        dyndeploy.build(bundle, "tensorrt", inline=["bent"])


def test_tf32_is_another_plugin(bundle, fake):
    result = dyndeploy.build(bundle, "tensorrt", tf32=True)
    assert {o.name: o.version for o in result.record.ops} == {"bend": "1-tf32", "filter": "1"}  # DDF has no products
    with pytest.raises(DynError, match="tf32 is for float32 products; the graph is fp16"):
        dyndeploy.build(bundle, "tensorrt", tf32=True, precision="fp16")


def test_nothing_is_downgraded_to_a_body_in_silence(bundle, fake):
    fake(ignore_plugins=["DecoupledDynamicFilter"])
    with pytest.raises(DynError, match="Node filter was to be a plugin, and TensorRT built it from its body") as caught:
        dyndeploy.build(bundle, "tensorrt")
    assert "DecoupledDynamicFilter (version '1', namespace 'dyndeploy')" in str(caught.value)
    assert records(bundle) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tensort"}, "There is no target 'tensort'(.|\n)*tensorrt\\?"),
        ({"precision": "int3"}, "precision='int3' is not known"),
        ({"embed_plugins": True, "plugins": False}, "contradict each other"),
        ({"embed_plugins": True, "inline": ["bend", "filter"]}, "There is no plugin to embed"),
        ({"workspace": -1}, "workspace=-1 is not a number of bytes"),
        ({"optimization_level": 6}, "outside 0..5"),
        ({"gpus": "ada"}, "gpus='ada' is not for tensorrt"),
        ({"dims": {"bacht": 1}}, "The bundle has no dim 'bacht'(.|\n)*batch\\?"),
        ({"dims": {"batch": "1:4:8"}}, r"batch=8 is outside 1\.\.4"),
        ({"dims": {"batch": "4:1:2"}}, "dims.batch='4:1:2' is not a dim"),
    ],
)
def test_arguments_that_do_not_fit(options, message, bundle, fake):
    with pytest.raises(DynError, match=message):
        dyndeploy.build(bundle, **{"target": "tensorrt", **options})
    assert not (bundle.path / "engines").exists()


def test_tensorrt_needs_a_gpu(bundle, monkeypatch):
    monkeypatch.setattr("dyndeploy.tensorrt.gpu._PROBE", 'raise SystemExit("cuInit returned 100")')
    with pytest.raises(DynError, match="builds on the GPU that the engine is for, and there is none here") as caught:
        dyndeploy.build(bundle, "tensorrt")
    assert "cuInit returned 100" in caught.value.why
    assert "--target tensorrt-rtx" in caught.value.fix


def test_a_gpu_is_asked_in_another_process(monkeypatch):
    from dyndeploy.tensorrt.gpu import current_gpu

    answer = json.dumps({"name": "GPU 3", "compute_capability": "9.0"})
    monkeypatch.setattr("dyndeploy.tensorrt.gpu._PROBE", f"print({answer!r})")
    assert str(current_gpu()) == "GPU 3 (sm_90)"


def test_a_package_that_is_missing_old_or_broken(bundle, fake, monkeypatch, tmp_path):
    import dataclasses

    def served(**changes):
        monkeypatch.setitem(vendor.TARGETS, "tensorrt", dataclasses.replace(vendor.TARGETS["tensorrt"], **changes))

    served(minimum="11.5")
    with pytest.raises(DynError, match=r"fake_builder 11\.4\.0\.106 is older than 11\.5"):
        dyndeploy.build(bundle, "tensorrt")
    served(package="no_such_vendor")
    with pytest.raises(MissingPackageError, match=r"needs the package 'no_such_vendor'(.|\n)*dyndeploy\[tensorrt\]"):
        dyndeploy.build(bundle, "tensorrt")
    (tmp_path / "broken_vendor.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    served(package="broken_vendor")
    with pytest.raises(DynError, match=r"'broken_vendor' does not load(.|\n)*libnvinfer.so.11"):
        dyndeploy.build(bundle, "tensorrt")


def test_a_cast_is_what_an_export_casts(tmp_path):
    from torch import nn, rand

    from dyndeploy.graph.fingerprint import fingerprints
    from dyndeploy.nn import ModulatedDeformConv2d

    model = nn.Sequential(ModulatedDeformConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    dims = {"batch": (1, 2, 4)}
    full, half = (
        dyndeploy.export(model, rand(1, 3, 8, 8), tmp_path / precision, dims=dims, precision=precision)
        for precision in ("fp32", "fp16")
    )
    cast, exported = (
        onnx.ModelProto.FromString(content)
        for content in (prepare(full, precision="fp16").content, half.onnx_path.read_bytes())
    )
    assert fingerprints(cast) == fingerprints(exported)
    assert [(n.name, list(n.input), list(n.output)) for n in cast.graph.node] == [
        (n.name, list(n.input), list(n.output)) for n in exported.graph.node
    ]
