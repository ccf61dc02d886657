"""Bundles that are replaced while they are served."""

import json
import sys
import threading
import types

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dyndeploy.bundle import MANIFEST, ONNX
from dyndeploy.errors import DynError, MissingPackageError


@pytest.fixture
def folder(tmp_path, make_linear):
    return make_linear(tmp_path / "linear")


def parameters(call):
    return {n: v["string_value"] for n, v in call("GET", "/v2/models/linear/config")[1]["parameters"].items()}


def test_under_load_no_request_is_lost_and_each_has_one_bundles_numbers(
    folder, make_linear, serve, rest, samples, alone, stats, wait_for
):
    x = samples(2)
    first = alone(x)
    with serve(folder) as server:
        call = rest(server)
        answers, stop = [], threading.Event()

        def load():
            own = rest(server)
            while not stop.is_set():
                answers.append(own.infer(x))

        clients = [threading.Thread(target=load) for _ in range(4)]
        for client in clients:
            client.start()
        for scale in (2.0, 4.0, 8.0):
            make_linear(folder, scale=scale)
            assert call("POST", "/v2/repository/models/linear/load", {}) == (200, {})
            np.testing.assert_array_equal(call.infer(x)[1], scale * first)
        stop.set()
        for client in clients:
            client.join()
        assert {status for status, _ in answers} == {200}
        seen = {next(s for s in (1, 2, 4, 8) if np.array_equal(y, s * first)) for _, y in answers}
        assert {1, 8} & seen
        found = stats(server)
        assert found["dyndeploy"]["reloads"] == 3
        assert found["inference_stats"]["success"]["count"] == len(answers) + 3
        assert found["inference_stats"]["fail"]["count"] == 0


def break_model(folder):
    (folder / ONNX).write_bytes((folder / ONNX).read_bytes()[:-20])


def break_manifest(folder):
    (folder / MANIFEST).write_text("{")


def break_numbers(folder):
    """A whole and valid bundle, but for the numbers that it promises."""
    from safetensors.numpy import load_file, save_file

    from dyndeploy.bundle import GOLDENS, file_digest

    goldens = {k: v * 1.01 if "/outputs/" in k else v for k, v in load_file(folder / GOLDENS).items()}
    save_file(goldens, folder / GOLDENS)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][GOLDENS] = file_digest(folder / GOLDENS)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def remove(folder):
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_model, "cannot be loaded"),
        (break_manifest, "cannot be read"),
        (break_numbers, "other numbers"),
        (remove, "not a bundle"),
    ],
)
def test_a_broken_bundle_leaves_the_old_one_serving_and_says_why(
    folder, make_linear, serve, rest, samples, alone, stats, monkeypatch, damage, words
):
    def no_torch(*_):
        raise MissingPackageError("torch", "Running model.pt2", "export")

    # Else the numbers are judged once more, which takes seconds; test_selftest.py does that.
    monkeypatch.setitem(sys.modules, "dyndeploy.pipeline.check", types.SimpleNamespace(check_runtime=no_torch))
    x = samples()
    with serve(folder) as server:
        call = rest(server)
        digest = parameters(call)["digest"]
        damage(folder)
        status, content = call("POST", "/v2/repository/models/linear/load", {})
        assert status == 400
        assert words in content["error"]
        with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError) as error:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryModelLoad(
                service_pb2.RepositoryModelLoadRequest(model_name="linear")
            )
        assert words in error.value.details()
        with pytest.raises(DynError, match=words):
            server.reload("linear")
        assert call("GET", "/v2/health/ready")[0] == 200
        np.testing.assert_array_equal(call.infer(x)[1], alone(x))
        assert parameters(call)["digest"] == digest
        (entry,) = call("POST", "/v2/repository/index")[1]
        assert entry["state"] == "READY"
        assert words in entry["reason"]
        assert stats(server)["dyndeploy"]["failed_reloads"] == 3
        make_linear(folder, scale=2.0)
        server.reload("linear")
        np.testing.assert_array_equal(call.infer(x)[1], 2 * alone(x))
        assert call("POST", "/v2/repository/index")[1][0]["reason"] == ""


def test_unloading_and_loading(folder, serve, rest, samples):
    with serve(folder) as server:
        call = rest(server)
        assert call("POST", "/v2/repository/models/linear/unload")[0] == 200
        assert call.infer(samples())[0] == 503
        assert call("GET", "/v2/models/linear/ready")[0] == 503
        assert call("GET", "/v2/health/ready")[0] == 200  # as wished
        (entry,) = call("POST", "/v2/repository/index")[1]
        assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", "unloaded")
        assert call("POST", "/v2/repository/index", {"ready": True})[1] == []
        with grpc.insecure_channel(server.grpc_url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert not stub.ModelReady(service_pb2.ModelReadyRequest(name="linear")).ready
            stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="linear"))
            assert call.infer(samples())[0] == 200
            stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="linear"))
        assert call.infer(samples())[0] == 503
        assert call("POST", "/v2/repository/models/linear/load")[0] == 200
        assert call.infer(samples())[0] == 200


def test_no_files_and_no_configuration_come_with_a_request(folder, serve, rest):
    with serve(folder) as server:
        for parameter in ("config", "file:1/model.onnx"):
            status, content = rest(server)(
                "POST", "/v2/repository/models/linear/load", {"parameters": {parameter: "e30="}}
            )
            assert status == 400
            assert parameter in content["error"]
            request = service_pb2.RepositoryModelLoadRequest(model_name="linear")
            request.parameters[parameter].bytes_param = b"{}"
            with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError) as error:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryModelLoad(request)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_new_export_is_seen_and_a_check_is_none(folder, make_linear, serve, rest, samples, alone, stats, wait_for):
    x = samples()
    with serve(folder, watch_s=0.05) as server:
        call = rest(server)
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, "check": {"verdict": "within noise"}}))
        make_linear(folder.with_name("other"), scale=2.0)
        for name in (ONNX, "goldens.safetensors", MANIFEST):
            folder.with_name("other").joinpath(name).replace(folder / name)
        wait_for(lambda: stats(server)["dyndeploy"]["reloads"] == 1)
        np.testing.assert_array_equal(call.infer(x)[1], 2 * alone(x))
        assert stats(server)["dyndeploy"]["failed_reloads"] == 0
