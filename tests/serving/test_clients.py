"""Clients that others wrote: tritonclient, and curl."""

import asyncio
import json
import queue
import shutil
import subprocess

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException


def inputs_of(module, x, **options):
    tensor = module.InferInput("x", x.shape, "FP32")
    tensor.set_data_from_numpy(x, **options)
    return [tensor]


def address(server, module):
    return server.grpc_url if "grpc" in module.__name__ else server.url.removeprefix("http://")


SYNC = pytest.mark.parametrize("module", [triton_http, triton_grpc], ids=["http", "grpc"])
ASYNC = pytest.mark.parametrize("module", [triton_http_aio, triton_grpc_aio], ids=["http", "grpc"])


@SYNC
def test_sync(shared, samples, alone, module):
    with module.InferenceServerClient(address(shared, module)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("linear")
        assert not client.is_model_ready("linear", "2")
        x = samples(3, 2)
        result = client.infer("linear", inputs_of(module, x), request_id="r1")
        np.testing.assert_array_equal(result.as_numpy("y"), alone(x))
        chosen = [module.InferRequestedOutput("y")]
        result = client.infer("linear", inputs_of(module, x), model_version="1", outputs=chosen, timeout=10**7)
        np.testing.assert_array_equal(result.as_numpy("y"), alone(x))
        with pytest.raises(InferenceServerException, match="length=6 is outside"):
            client.infer("linear", inputs_of(module, samples(1, 6)))
        client.get_server_metadata()
        client.get_model_metadata("linear")
        client.get_model_config("linear")
        client.get_inference_statistics("linear")
        index = client.get_model_repository_index()
        assert len(index if module is triton_http else index.models) == 2


@ASYNC
def test_async(shared, samples, alone, module):
    sync = triton_grpc if module is triton_grpc_aio else triton_http

    async def run():
        async with module.InferenceServerClient(address(shared, sync)) as client:
            assert await client.is_server_ready()
            inputs = [samples(1 + i % 4, 3, seed=i) for i in range(40)]
            results = await asyncio.gather(*(client.infer("linear", inputs_of(sync, x)) for x in inputs))
            for x, result in zip(inputs, results):
                np.testing.assert_array_equal(result.as_numpy("y"), alone(x))

    asyncio.run(run())


def test_http_with_json_instead_of_raw_data(shared, samples, alone):
    x = samples(2)
    with triton_http.InferenceServerClient(address(shared, triton_http)) as client:
        outputs = [triton_http.InferRequestedOutput("y", binary_data=False)]
        result = client.infer("linear", inputs_of(triton_http, x, binary_data=False), outputs=outputs)
        np.testing.assert_array_equal(result.as_numpy("y"), alone(x))


def test_http_async_infer(shared, samples, alone):
    with triton_http.InferenceServerClient(address(shared, triton_http), concurrency=4) as client:
        inputs = [samples(1, 3, seed=i) for i in range(20)]
        pending = [client.async_infer("linear", inputs_of(triton_http, x)) for x in inputs]
        for x, request in zip(inputs, pending):
            np.testing.assert_array_equal(request.get_result().as_numpy("y"), alone(x))


def test_grpc_stream(shared, samples, alone):
    answers = queue.SimpleQueue()
    inputs = [samples(1 + i % 4, 3, seed=i) for i in range(50)]
    with triton_grpc.InferenceServerClient(shared.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for index, x in enumerate(inputs):
            client.async_stream_infer("linear", inputs_of(triton_grpc, x), request_id=str(index))
        for index, x in enumerate(inputs):
            result, error = answers.get(timeout=60)
            assert error is None
            assert result.get_response().id == str(index)
            np.testing.assert_array_equal(result.as_numpy("y"), alone(x))
        client.stop_stream()


def test_curl(shared, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 6], "data": [1, 0, 0, 0, 0, 0]}]}
    command = ["curl", "-sS", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = subprocess.run(
        [*command, f"{shared.url}/v2/models/linear/infer"], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["outputs"][0]["shape"] == [1, 1, 4]
    large = tmp_path / "large"
    large.write_bytes(b"[" + b" " * 3_000_000 + b"]")  # curl asks first, with Expect
    done = subprocess.run(
        [*command[:-1], f"@{large}", "-w", "%{http_code}", f"{shared.url}/v2/models/linear/infer"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("413")
    assert "at most" in done.stdout
