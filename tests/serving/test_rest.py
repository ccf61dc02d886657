"""REST: what the protocol says, byte by byte."""

import json

import ml_dtypes
import numpy as np
import pytest

import dyndeploy

DTYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
INFER = "/v2/models/linear/infer"


@pytest.fixture
def call(rest, shared):
    return rest(shared)


def numpy_dtype(name):
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def echo_arrays():
    rng = np.random.default_rng(3)
    return {f"in_{d}": rng.integers(0, 2, (2, 3)).astype(numpy_dtype(d)) for d in DTYPES}


def binary(arrays, **more):
    """(body, headers) with all tensors raw."""
    parts = [np.ascontiguousarray(a).tobytes() for a in arrays.values()]
    tensors = [
        {
            "name": name,
            "datatype": DTYPES[a.dtype.name],
            "shape": list(a.shape),
            "parameters": {"binary_data_size": a.nbytes},
        }
        for name, a in arrays.items()
    ]
    head = json.dumps({"inputs": tensors, **more}).encode()
    return head + b"".join(parts), {"Inference-Header-Content-Length": str(len(head))}


def unpack(content, headers):
    """Name -> array, from a response with raw tensors."""
    length = int(headers["inference-header-content-length"])
    answer, at, arrays = json.loads(content[:length]), length, {}
    for tensor in answer["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        dtype = numpy_dtype(next(d for d, name in DTYPES.items() if name == tensor["datatype"]))
        arrays[tensor["name"]] = np.frombuffer(content[at : at + size], dtype).reshape(tensor["shape"])
        at += size
    assert at == len(content)
    return answer, arrays


def test_health_and_metadata(call, shared):
    assert call("GET", "/v2/health/live") == (200, {"live": True})
    assert call("GET", "/v2/health/ready") == (200, {"ready": True})
    status, server = call("GET", "/v2")
    assert (status, server["name"], server["version"]) == (200, "dyndeploy", dyndeploy.__version__)
    assert "binary_tensor_data" in server["extensions"]
    expected = {
        "name": "linear",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1, 6]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, -1, 4]}],
    }
    assert call("GET", "/v2/models/linear") == (200, expected)
    assert call("GET", "/v2/models/linear/versions/1") == (200, expected)
    assert call("GET", "/v2/models/linear/ready") == (200, {"name": "linear", "ready": True})
    assert call("GET", "/v2/models/linear/versions/1/ready")[0] == 200
    assert call.headers["x-request-id"]


def test_config_is_that_of_triton_with_the_dims_among_the_parameters(call):
    _, config = call("GET", "/v2/models/linear/config")
    assert config["max_batch_size"] == 8
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 6]}]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 4]}]
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": 0}
    parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
    assert parameters["dim.batch"] == "1:4:8"
    assert parameters["shape.x"] == "batch,length,6"
    assert parameters["range.x"] == "0:100"
    assert parameters["digest"].startswith("sha256:")
    assert "noise" in parameters["self_test"] or parameters["self_test"].startswith("identical")


def test_json_in_and_out(call, samples, alone):
    x = samples(2)
    status, y = call.infer(x, id="seven")
    assert status == 200
    np.testing.assert_array_equal(y, alone(x))
    assert y.shape == (2, 3, 4)


def test_the_answer_names_model_version_and_request(call, samples):
    x = samples()
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.tolist()}  # nested
    path = "/v2/models/linear/versions/1/infer"
    status, answer = call("POST", path, {"id": "seven", "inputs": [tensor], "outputs": [{"name": "y"}]})
    assert status == 200
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "linear", "1")
    assert answer["outputs"][0]["datatype"] == "FP32"
    assert "inference-header-content-length" not in call.headers
    del tensor["name"]
    assert "id" not in call("POST", path, {"inputs": [{"name": "x", **tensor}]})[1]


def test_every_dtype_raw(call):
    arrays = echo_arrays()
    body, headers = binary(arrays, parameters={"binary_data_output": True})
    status, content = call("POST", "/v2/models/echo/infer", body, headers)
    assert status == 200
    assert call.headers["content-type"] == "application/octet-stream"
    _, outputs = unpack(content, call.headers)
    for name, array in arrays.items():
        output = outputs[name.replace("in_", "out_")]
        assert output.dtype == array.dtype
        assert output.tobytes() == array.tobytes()


def test_every_dtype_as_json(call):
    arrays = echo_arrays()
    tensors = [
        {
            "name": name,
            "datatype": DTYPES[a.dtype.name],
            "shape": [2, 3],
            "data": a.astype(np.float32).tolist() if a.dtype.name == "bfloat16" else a.tolist(),
        }
        for name, a in arrays.items()
    ]
    status, answer = call("POST", "/v2/models/echo/infer", {"inputs": tensors})
    assert status == 200
    for output in answer["outputs"]:
        array = arrays[output["name"].replace("out_", "in_")]
        assert output["datatype"] == DTYPES[array.dtype.name]
        assert output["shape"] == [2, 3]
        np.testing.assert_array_equal(np.array(output["data"]).reshape(2, 3), array.astype(np.float64))
    as_bools = next(o for o in answer["outputs"] if o["name"] == "out_bool")["data"]
    assert all(isinstance(value, bool) for value in as_bools)


def test_json_and_raw_mixed_and_outputs_chosen(call):
    arrays = echo_arrays()
    body, _ = binary(arrays)
    head = json.loads(body[: body.index(b"]}" + arrays["in_bool"].tobytes()) + 2])
    numbers = arrays.pop("in_int32")
    for tensor in head["inputs"]:
        if tensor["name"] == "in_int32":
            del tensor["parameters"]
            tensor["data"] = numbers.tolist()
    head["outputs"] = [
        {"name": "out_int32", "parameters": {"binary_data": True}},
        {"name": "out_float16", "parameters": {"binary_data": False}},
    ]
    text = json.dumps(head).encode()
    body = text + b"".join(a.tobytes() for a in arrays.values())
    status, content = call("POST", "/v2/models/echo/infer", body, {"Inference-Header-Content-Length": str(len(text))})
    assert status == 200
    length = int(call.headers["inference-header-content-length"])
    outputs = json.loads(content[:length])["outputs"]
    assert [o["name"] for o in outputs] == ["out_int32", "out_float16"]
    assert content[length:] == numbers.tobytes()
    assert outputs[1]["data"] == arrays["in_float16"].ravel().tolist()


def test_raw_data_at_any_address_and_a_body_in_many_pieces(call, rest, shared, samples, alone):
    x = samples(8, 5)
    for padding in range(5):  # the data begins wherever the JSON ends
        body, headers = binary({"x": x}, id="i" * padding, parameters={"binary_data_output": True})
        pieces = iter([body[at : at + 37] for at in range(0, len(body), 37)])
        status, content = call("POST", INFER, pieces, headers)
        assert status == 200
        np.testing.assert_array_equal(unpack(content, call.headers)[1]["y"], alone(x))


def test_an_empty_tensor_of_a_dim_that_begins_at_one_is_refused(call):
    status, content = call.infer(np.zeros((0, 3, 6)))
    assert status == 400
    assert "batch=0 is outside 1..8" in content["error"]


def tensor(**changes):
    return {"name": "x", "datatype": "FP32", "shape": [1, 1, 6], "data": [0] * 6, **changes}


REFUSED = {
    "no object": ([1], "not a JSON object"),
    "no inputs": ({}, "no list 'inputs'"),
    "inputs of another kind": ({"inputs": {"x": 1}}, "no list 'inputs'"),
    "no input": ({"inputs": []}, "Missing: x"),
    "unknown input": ({"inputs": [tensor(name="z")]}, "no input 'z'"),
    "twice": ({"inputs": [tensor(), tensor()]}, "twice"),
    "no name": ({"inputs": [{"datatype": "FP32", "shape": [1]}]}, "no name"),
    "datatype": ({"inputs": [tensor(datatype="FP31")]}, "no datatype 'FP31'"),
    "another datatype": ({"inputs": [tensor(datatype="FP64")]}, "is float64, expected float32"),
    "bytes": ({"inputs": [tensor(datatype="BYTES")]}, "BYTES is not supported"),
    "rank": ({"inputs": [tensor(shape=[6])]}, "expected 3 dims"),
    "size": ({"inputs": [tensor(shape=[1, 1, 7])]}, "expected 6"),
    "negative": ({"inputs": [tensor(shape=[-1, 1, 6])]}, "not a size"),
    "huge": ({"inputs": [tensor(shape=[2**62, 1, 6])]}, "not a size"),
    "fraction": ({"inputs": [tensor(shape=[1.5, 1, 6])]}, "not a size"),
    "true": ({"inputs": [tensor(shape=[True, 1, 6])]}, "not a size"),
    "outside the dim": ({"inputs": [tensor(shape=[1, 6, 6], data=[0] * 36)]}, "length=6 is outside 1..5"),
    "too few": ({"inputs": [tensor(data=[0] * 5)]}, "shape [5]"),
    "ragged": ({"inputs": [tensor(data=[[1, 2], [3]])]}, "not a list of numbers"),
    "words": ({"inputs": [tensor(data=["a"] * 6)]}, "not of the kind FP32"),
    "null": ({"inputs": [tensor(data=[None] * 6)]}, "not of the kind FP32"),
    "objects": ({"inputs": [tensor(data=[{}] * 6)]}, "not of the kind FP32"),
    "no data": ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 6]}]}, "neither a list 'data'"),
    "output": ({"inputs": [tensor()], "outputs": [{"name": "z"}]}, "no output 'z'"),
    "output twice": ({"inputs": [tensor()], "outputs": [{"name": "y"}, {"name": "y"}]}, "asked for twice"),
    "id": ({"inputs": [tensor()], "id": 5}, "id is not a string"),
    "parameters": ({"inputs": [tensor()], "parameters": 5}, "not an object"),
    "timeout": ({"inputs": [tensor()], "parameters": {"timeout": "soon"}}, "microseconds"),
    "flag": ({"inputs": [tensor()], "parameters": {"binary_data_output": 1}}, "not true or false"),
    "shared memory": (
        {"inputs": [tensor(parameters={"shared_memory_region": "a"})]},
        "Shared memory is not supported",
    ),
    "classification": (
        {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        "classification extension is not supported",
    ),
    "sequence": ({"inputs": [tensor()], "parameters": {"sequence_id": 3}}, "Sequences are not supported"),
    "raw without data": ({"inputs": [tensor(parameters={"binary_data_size": 24})]}, "ends within"),
}


@pytest.mark.parametrize(("body", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_with_words(call, body, words):
    status, content = call("POST", INFER, body)
    assert status == 400
    assert list(content) == ["error"]
    assert words in content["error"]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [0, 1, 0]),
        ("UINT8", [0, 1, 256]),
        ("UINT8", [0, 1, -1]),
        ("INT8", [0, 1, 128]),
        ("INT32", [0, 1, 1.5]),
        ("INT64", [0, 1, 2**63]),
        ("INT32", [True, False, True]),
    ],
)
def test_numbers_are_never_bent_to_fit(rest, serve, tmp_path, call, datatype, data):
    arrays = echo_arrays()
    tensors = [
        {"name": n, "datatype": DTYPES[a.dtype.name], "shape": [1, 3], "data": a[:1].astype(float).tolist()}
        for n, a in arrays.items()
        if a.dtype.kind not in "biu"
    ]
    for name, a in arrays.items():
        if a.dtype.kind in "biu":
            values = data if DTYPES[a.dtype.name] == datatype else a[0].tolist()
            tensors.append({"name": name, "datatype": DTYPES[a.dtype.name], "shape": [1, 3], "data": values})
    status, content = call("POST", "/v2/models/echo/infer", {"inputs": tensors})
    assert status == 400
    assert datatype in content["error"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda head, data: (head, data[:-1]), "ends within"),
        (lambda head, data: (head, data + b"\0"), "1 bytes follow"),
        (lambda head, data: (head.replace(b"72", b"71"), data), "binary_data_size 71"),
        (lambda head, data: (head.replace(b"72", b"-1"), data), "binary_data_size -1"),
        (lambda head, data: (head.replace(b"72", b"1e1"), data), "binary_data_size 10.0"),
        (lambda head, data: (head[:-1], data), "not JSON"),
    ],
)
def test_raw_data_has_the_size_it_should(call, samples, change, words):
    body, headers = binary({"x": samples()})
    length = int(headers["Inference-Header-Content-Length"])
    head, data = change(body[:length], body[length:])
    status, content = call("POST", INFER, head + data, {"Inference-Header-Content-Length": str(len(head))})
    assert status == 400
    assert words in content["error"]


@pytest.mark.parametrize("length", ["-1", "x", "1" * 40, "999999"])
def test_a_wrong_length_of_the_json(call, length):
    status, _ = call("POST", INFER, b"{}", {"Inference-Header-Content-Length": length})
    assert status in (400, 413)


def test_raw_bools_are_0_or_1(call):
    arrays = echo_arrays()
    body, headers = binary(arrays)
    at = int(headers["Inference-Header-Content-Length"])
    assert body[at : at + 6] == arrays["in_bool"].tobytes()
    status, content = call("POST", "/v2/models/echo/infer", body[:at] + b"\x02" + body[at + 1 :], headers)
    assert status == 400
    assert "other than 0 and 1" in content["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/linear/versions/2", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/linear/versions/2/infer", 404),
        ("GET", "/v2/models/none/stats", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v2/", 404),
        ("POST", "/v2/models/linear/infer/", 404),
        ("GET", "/v2/models/linear/infer", 405),
        ("DELETE", "/v2", 405),
        ("POST", "/v2/repository/models/none/load", 404),
        ("GET", "/page/none.js", 404),
        ("GET", "/page/../server.py", 404),
        ("GET", "/page/%2e%2e%2fserver.py", 404),
    ],
)
def test_addresses_that_lead_nowhere(call, method, path, status):
    found, content = call(method, path, {} if method == "POST" else None)
    assert found == status
    assert content["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_other_content_types(call, kind):
    status, content = call("POST", INFER, "{}", {"Content-Type": kind})
    assert status == 415
    assert kind.partition(";")[0] in content["error"]


def test_compressed_bodies(call):
    assert call("POST", INFER, b"x", {"Content-Encoding": "gzip"})[0] == 415


def test_the_index_of_the_repository(call):
    expected = [{"name": n, "version": "1", "state": "READY", "reason": ""} for n in ("linear", "echo")]
    assert call("POST", "/v2/repository/index") == (200, expected)
    assert call("POST", "/v2/repository/index", {"ready": True}) == (200, expected)


def test_request_ids_are_kept_or_made(call):
    call("GET", "/v2", headers={"X-Request-Id": "abc-1"})
    assert call.headers["x-request-id"] == "abc-1"
    call("GET", "/v2", headers={"X-Request-Id": "a b\tc"})
    assert call.headers["x-request-id"] != "a b\tc"


def test_a_number_that_json_has_not(call, samples):
    """NaN comes out as null; raw, it is what it is."""
    x = samples(1, 1)
    x[:] = np.nan
    body, headers = binary({"x": x})
    status, content = call("POST", INFER, body, headers)
    assert status == 200
    assert content["outputs"][0]["data"] == [None] * 4


@pytest.mark.parametrize("number", ["1e39", "-1e39"])
def test_numbers_beyond_float32_are_refused(call, number):
    body = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1,6],"data":[0,0,0,0,0,NUMBER]}]}'
    body = body.replace("NUMBER", number)
    status, content = call("POST", INFER, body, {"Content-Type": "application/json"})
    assert status == 400
    assert "beyond FP32" in content["error"]


def test_the_largest_integers(call):
    tensors = [
        {"name": n, "datatype": DTYPES[a.dtype.name], "shape": [1, 3], "data": a[:1].astype(float).tolist()}
        for n, a in echo_arrays().items()
        if a.dtype.kind not in "biu"
    ]
    limits = {}
    for name, a in echo_arrays().items():
        if a.dtype.kind in "biu":
            low, high = (False, True) if a.dtype.kind == "b" else (np.iinfo(a.dtype).min, np.iinfo(a.dtype).max)
            limits[name] = [low, high, high] if a.dtype.kind == "b" else [int(low), int(high), int(high) // 2]
            tensors.append({"name": name, "datatype": DTYPES[a.dtype.name], "shape": [1, 3], "data": limits[name]})
    status, answer = call("POST", "/v2/models/echo/infer", {"inputs": tensors})
    assert status == 200, answer
    found = {o["name"].replace("out_", "in_"): o["data"] for o in answer["outputs"]}
    assert {name: found[name] for name in limits} == limits


def test_a_defect_is_told_as_json_and_ends_nothing(serve, bundles, rest, samples, monkeypatch, caplog):
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    from dyndeploy.serving.models.model import Model
    from dyndeploy.serving.rest import app

    with serve(bundles / "linear") as server:
        call = rest(server)
        with monkeypatch.context() as patch:
            patch.setattr(Model, "submit", lambda *_: 1 / 0)
            patch.setattr(app, "server_metadata", lambda: 1 / 0)
            for status, content in (call.infer(samples()), call("GET", "/v2")):
                assert status == 500
                assert "defect" in content["error"]
            request = service_pb2.ModelInferRequest(model_name="linear")
            request.inputs.add(name="x", datatype="FP32", shape=[1, 3, 6])
            request.raw_input_contents.append(samples().tobytes())
            with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError) as error:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
            assert error.value.code() == grpc.StatusCode.INTERNAL
        assert call.infer(samples())[0] == 200
    assert "ZeroDivisionError" in caplog.text
