"""gRPC: the messages, and what each method answers."""

import grpc
import ml_dtypes
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from dyndeploy.serving.rpc import codec, messages

DTYPES = {
    "bool": "BOOL",
    **{f"{s}int{b}": f"{s.upper()}INT{b}" for s in ("", "u") for b in (8, 16, 32, 64)},
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
}
CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}


@pytest.fixture(scope="module")
def stub(shared):
    with grpc.insecure_channel(shared.grpc_url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def echo_request(dtypes=DTYPES):
    arrays = {}
    request = service_pb2.ModelInferRequest(model_name="echo", id="seven")
    for index, name in enumerate(dtypes):
        dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
        arrays[name] = np.random.default_rng(index).integers(0, 2, (2, 3)).astype(dtype)
        request.inputs.add(name=f"in_{name}", datatype=DTYPES[name], shape=[2, 3])
        request.raw_input_contents.append(arrays[name].tobytes())
    return request, arrays


def linear_request(x, **more):
    request = service_pb2.ModelInferRequest(model_name="linear", **more)
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    return request


def refused(call, code, words):
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() == code
    assert words in error.value.details()


def described(descriptor):
    """Everything that decides about the bytes of a message."""
    return {
        f.number: (
            f.name,
            f.type,
            f.is_repeated,
            f.is_packed,
            f.containing_oneof.name if f.containing_oneof else None,
            f.message_type.full_name if f.message_type else None,
            [(v.name, v.number) for v in f.enum_type.values] if f.enum_type else None,
        )
        for f in descriptor.fields
    }


#: Messages of which only some fields are filled in.
PARTIAL = {"ModelConfig", "ModelInput", "ModelOutput", "ModelDynamicBatching", "ModelInstanceGroup"}
PARTIAL |= {"InferStatistics", "ModelStatistics"}


@pytest.mark.parametrize("name", messages._MESSAGES)
def test_the_messages_are_those_of_the_protocol(name):
    outer, _, inner = name.partition(".")
    module = model_config_pb2 if hasattr(model_config_pb2, outer) else service_pb2
    theirs = getattr(module, outer).DESCRIPTOR
    theirs = theirs.nested_types_by_name[inner] if inner else theirs
    ours, expected = described(messages.message(name).DESCRIPTOR), described(theirs)
    if name in PARTIAL:
        expected = {number: expected[number] for number in ours}
    assert ours == expected


def test_every_dtype_raw(stub):
    request, arrays = echo_request()
    answer = stub.ModelInfer(request)
    assert (answer.id, answer.model_name, answer.model_version) == ("seven", "echo", "1")
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        array = arrays[output.name.removeprefix("out_")]
        assert output.datatype == DTYPES[array.dtype.name]
        assert list(output.shape) == [2, 3]
        assert raw == array.tobytes()


def test_typed_contents(serve, bundles, make_bundle, tmp_path):
    """Both halves have no typed contents; they get a model without them."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("served", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_echo(tmp_path / "echo", tuple(CONTENTS))
    with serve(tmp_path / "echo") as server, grpc.insecure_channel(server.grpc_url) as channel:
        request, arrays = echo_request(CONTENTS)
        del request.raw_input_contents[:]
        for tensor in request.inputs:
            array = arrays[tensor.name.removeprefix("in_")]
            getattr(tensor.contents, CONTENTS[array.dtype.name]).extend(array.ravel().tolist())
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(request)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
            assert raw == arrays[output.name.removeprefix("out_")].tobytes()
        request.inputs[1].contents.int_contents[0] = 128
        refused(lambda: stub.ModelInfer(request), grpc.StatusCode.INVALID_ARGUMENT, "beyond INT8")
        del request.inputs[1].contents.int_contents[:]
        refused(lambda: stub.ModelInfer(request), grpc.StatusCode.INVALID_ARGUMENT, "0 values in int_contents")


def test_half_floats_have_no_typed_contents(stub):
    request, _ = echo_request()
    del request.raw_input_contents[:]
    for tensor in request.inputs:
        field = CONTENTS.get(tensor.name.removeprefix("in_"), "fp32_contents")
        getattr(tensor.contents, field).extend([0] * 6)
    refused(lambda: stub.ModelInfer(request), grpc.StatusCode.INVALID_ARGUMENT, "no typed contents")


def test_what_does_not_fit(stub, samples):
    x = samples()
    bad = grpc.StatusCode.INVALID_ARGUMENT
    request = linear_request(x)
    request.raw_input_contents[0] = x.tobytes()[:-1]
    refused(lambda: stub.ModelInfer(request), bad, "71 bytes")
    request = linear_request(x)
    request.raw_input_contents.append(b"")
    refused(lambda: stub.ModelInfer(request), bad, "1 inputs and 2 raw_input_contents")
    request = linear_request(x)
    request.inputs[0].contents.fp32_contents.append(1)
    refused(lambda: stub.ModelInfer(request), bad, "has contents")
    request = linear_request(x)
    request.inputs[0].shape[1] = -1
    refused(lambda: stub.ModelInfer(request), bad, "not a size")
    request = linear_request(x)
    request.inputs[0].datatype = "BYTES"
    refused(lambda: stub.ModelInfer(request), bad, "BYTES is not supported")
    request = linear_request(x)
    request.outputs.add(name="z")
    refused(lambda: stub.ModelInfer(request), bad, "no output 'z'")
    request = linear_request(x)
    request.parameters["sequence_id"].int64_param = 4
    refused(lambda: stub.ModelInfer(request), grpc.StatusCode.UNIMPLEMENTED, "Sequences")
    request = linear_request(x)
    request.model_name = "none"
    refused(lambda: stub.ModelInfer(request), grpc.StatusCode.NOT_FOUND, "no model 'none'")
    request = linear_request(x, model_version="2")
    refused(lambda: stub.ModelInfer(request), grpc.StatusCode.NOT_FOUND, "no version '2'")
    refused(
        lambda: stub.SystemSharedMemoryStatus(service_pb2.SystemSharedMemoryStatusRequest()),
        grpc.StatusCode.UNIMPLEMENTED,
        "",
    )


def test_a_message_beyond_any_request_is_not_read(stub):
    request = linear_request(np.zeros((1000, 1000), np.float32))
    refused(lambda: stub.ModelInfer(request), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max")


def test_a_stream_answers_in_order_and_goes_on_after_an_error(stub, samples, alone):
    inputs = [samples(1 + i % 3, 1 + i % 5, seed=i) for i in range(200)]
    requests = [linear_request(x, id=str(i)) for i, x in enumerate(inputs)]
    requests[7].inputs[0].datatype = "FP64"
    requests[9].parameters["triton_enable_empty_final_response"].bool_param = True
    answers = list(stub.ModelStreamInfer(iter(requests)))
    assert [a.infer_response.id for a in answers] == [str(i) for i in range(200)]
    assert "is float64" in answers[7].error_message
    assert answers[9].infer_response.parameters["triton_final_response"].bool_param
    for index in (0, 1, 8, 9, 198):
        y = np.frombuffer(answers[index].infer_response.raw_output_contents[0], np.float32)
        np.testing.assert_array_equal(y, alone(inputs[index]).ravel())


def test_requests_of_one_size_that_begin_alike_are_told_apart(stub):
    """What is remembered of a request is not used for one that asks for something else, or has other sizes inside."""
    for turn in range(3):
        for wanted in ("out_int16", "out_int32", "out_int64"):
            request, _ = echo_request()
            request.raw_input_contents[4] = bytes([turn]) * len(request.raw_input_contents[4])
            request.outputs.add(name=wanted)
            answer = stub.ModelInfer(request)
            assert [output.name for output in answer.outputs] == [wanted]
            index = [tensor.name for tensor in request.inputs].index(f"in_{wanted[4:]}")
            assert list(answer.raw_output_contents) == [request.raw_input_contents[index]]
        first, second = request.raw_input_contents[1], request.raw_input_contents[2]
        request.raw_input_contents[1], request.raw_input_contents[2] = first + second[:1], second[1:]
        refused(lambda r=request: stub.ModelInfer(r), grpc.StatusCode.INVALID_ARGUMENT, "in_int8 has 7 bytes")


def test_raw_contents_wherever_they_lie(shared):
    """A message may have its fields in any order, and fields that are not known yet."""
    request, arrays = echo_request()
    raw = service_pb2.ModelInferRequest(raw_input_contents=request.raw_input_contents).SerializeToString()
    del request.raw_input_contents[:]
    rest, unknown = request.SerializeToString(), b"\xa0\x06\x01"  # field 100 is 1
    with grpc.insecure_channel(shared.grpc_url) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for data in (rest + raw, raw + rest, rest + raw + unknown, unknown + rest + raw, raw + unknown + rest):
            for _ in range(2):
                answer = service_pb2.ModelInferResponse.FromString(call(data))
                for output, found in zip(answer.outputs, answer.raw_output_contents, strict=True):
                    assert found == arrays[output.name.removeprefix("out_")].tobytes()


def test_metadata_config_statistics_and_index(stub):
    assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
    assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
    assert stub.ModelReady(service_pb2.ModelReadyRequest(name="linear")).ready
    assert not stub.ModelReady(service_pb2.ModelReadyRequest(name="none")).ready
    assert stub.ServerMetadata(service_pb2.ServerMetadataRequest()).name == "dyndeploy"
    metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="linear"))
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("x", "FP32", [-1, -1, 6])]
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="linear")).config
    assert (config.max_batch_size, list(config.input[0].dims)) == (8, [-1, 6])
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32
    assert config.parameters["dim.batch"].string_value == "1:4:8"
    assert config.HasField("dynamic_batching")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    found = stub.ModelStatistics(service_pb2.ModelStatisticsRequest()).model_stats
    assert [s.name for s in found] == ["linear", "echo"]
    index = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True)).models
    assert [(m.name, m.state) for m in index] == [("linear", "READY"), ("echo", "READY")]


def test_an_output_without_dims_has_none():
    request = linear_request(np.zeros((1, 3, 6), np.float32))
    frame, _ = codec.Frames().read(request.SerializeToString())
    layout = codec.Layout([], {}, ["y"], None, False)
    encoder = codec.Codec("linear", None, {"y": "FP32"})
    data = encoder.encode(codec.Decoded(frame, layout, {}), {"y": np.array(2.5, np.float32)})
    answer = service_pb2.ModelInferResponse.FromString(data)
    assert list(answer.outputs[0].shape) == []
    assert np.frombuffer(answer.raw_output_contents[0], np.float32) == 2.5
