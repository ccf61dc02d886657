"""Who runs when and with whom; what happens when there is too much, too late, or nobody waiting any more."""

import contextlib
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc


@pytest.fixture
def gated(gate, serve, bundles):
    """gated(**settings): a server whose runs wait for the gate."""

    @contextlib.contextmanager
    def run(**settings):
        with serve(bundles / "linear", runtime="gate", self_test=False, **settings) as server:
            gate.batches.clear()
            gate.opened.clear()
            try:
                yield server
            finally:
                gate.opened.set()

    return run


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as executor:
        yield executor


def rows(batches):
    return [len(x) for x in batches]


def test_requests_that_wait_run_together_and_each_gets_its_own_rows(gated, gate, pool, rest, samples, stats, wait_for):
    with gated() as server:
        call = rest(server)
        first = pool.submit(call.infer, samples())
        wait_for(lambda: gate.batches)
        inputs = [samples(1 + i % 3, 3, seed=i) for i in range(9)]
        answers = [pool.submit(call.infer, x) for x in inputs]
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 9)
        assert stats(server)["dyndeploy"]["running"] == 1
        gate.opened.set()
        for x, answer in zip(inputs, answers):
            status, y = answer.result()
            assert status == 200
            np.testing.assert_array_equal(y, x[..., :4] * 2)
        first.result()
        assert rows(gate.batches)[0] == 1
        assert sum(rows(gate.batches)) == 1 + sum(map(len, inputs))
        assert max(rows(gate.batches)) <= 8
        assert len(gate.batches) <= 5  # 18 samples, at most 8 together and none split
        found = stats(server)
        assert found["inference_count"] == 19
        assert found["execution_count"] == len(gate.batches)
        assert found["inference_stats"]["success"]["count"] == 10
        assert {b["batch_size"] for b in found["batch_stats"]} == set(rows(gate.batches))


def test_other_sizes_are_not_mixed(gated, gate, pool, rest, samples, stats, wait_for):
    with gated() as server:
        call = rest(server)
        first = pool.submit(call.infer, samples())
        wait_for(lambda: gate.batches)
        answers = [pool.submit(call.infer, samples(1, 1 + i % 3, seed=i)) for i in range(9)]
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 9)
        gate.opened.set()
        assert {a.result()[0] for a in [first, *answers]} == {200}
        assert sorted(x.shape for x in gate.batches[1:]) == [(3, 1, 6), (3, 2, 6), (3, 3, 6)]


def test_without_batching_each_runs_alone(gated, gate, pool, rest, samples, stats, wait_for):
    with gated(max_batch=1) as server:
        call = rest(server)
        answers = [pool.submit(call.infer, samples(seed=i)) for i in range(5)]
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 4)
        gate.opened.set()
        assert {a.result()[0] for a in answers} == {200}
        assert rows(gate.batches) == [1] * 5


def test_a_request_larger_than_max_batch_runs_alone(gated, gate, rest, samples):
    with gated(max_batch=2) as server:
        gate.opened.set()
        status, y = rest(server).infer(samples(8))
        assert (status, len(y)) == (200, 8)


def test_with_a_delay_requests_wait_for_others_and_a_full_batch_does_not(gated, gate, pool, rest, samples):
    with gated(max_queue_delay_us=100_000, grpc_port=None) as server:
        gate.opened.set()
        begun = time.monotonic()
        assert rest(server).infer(samples())[0] == 200
        assert time.monotonic() - begun >= 0.1
    with gated(max_queue_delay_us=60_000_000, max_batch=4, grpc_port=None) as server:
        gate.opened.set()
        answers = [pool.submit(rest(server).infer, samples(seed=i)) for i in range(4)]
        assert {a.result()[0] for a in answers} == {200}
        assert rows(gate.batches) == [4]


def test_several_instances_run_at_once(gated, gate, pool, rest, samples, stats, wait_for):
    with gated(instances=3, max_batch=1) as server:
        call = rest(server)
        answers = [pool.submit(call.infer, samples(seed=i)) for i in range(3)]
        wait_for(lambda: stats(server)["dyndeploy"]["running"] == 3)
        gate.opened.set()
        assert {a.result()[0] for a in answers} == {200}


def test_a_request_that_fails_does_not_fail_those_beside_it(gated, gate, pool, rest, samples, stats, wait_for):
    with gated() as server:
        call = rest(server)
        first = pool.submit(call.infer, samples())
        wait_for(lambda: gate.batches)
        inputs = [samples(seed=i) for i in range(4)]
        gate.failing = {float(inputs[2].flat[0])}
        answers = [pool.submit(call.infer, x) for x in inputs]
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 4)
        gate.opened.set()
        found = [a.result() for a in answers]
        assert [status for status, _ in found] == [200, 200, 500, 200]
        assert "a bad row" in found[2][1]["error"]
        first.result()
        assert stats(server)["dyndeploy"]["rejected"] == {"failed": 1}


def test_a_batch_has_the_bits_of_a_lone_run(shared, pool, rest, samples, alone, stats):
    before = stats(shared)["execution_count"]
    inputs = [samples(1 + i % 3, 1 + i % 5, seed=i) for i in range(120)]
    call = rest(shared)
    for x, (status, y) in zip(inputs, pool.map(call.infer, inputs)):
        assert status == 200
        np.testing.assert_array_equal(y, alone(x))
    assert 0 < stats(shared)["execution_count"] - before <= 120


def test_a_full_queue_refuses(gated, gate, pool, rest, samples, stats, wait_for):
    with gated(max_queue=3, max_batch=1) as server:
        call = rest(server)
        first = pool.submit(call.infer, samples())
        wait_for(lambda: gate.batches)
        answers = [pool.submit(call.infer, samples(seed=i)) for i in range(3)]
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 3)
        status, content = call.infer(samples())
        assert status == 429
        assert "waiting" in content["error"]
        assert call.headers["retry-after"] == "1"
        with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError) as error:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request_of(samples()))
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        gate.opened.set()
        assert {a.result()[0] for a in [first, *answers]} == {200}
        assert stats(server)["dyndeploy"]["rejected"] == {"overloaded": 2}
        assert call.infer(samples())[0] == 200


def test_memory_for_requests_is_bounded(gated, gate, pool, rest, samples, wait_for):
    with gated(max_memory=1 << 16, max_json=1 << 20) as server:
        call = rest(server)
        body = json.dumps(
            {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1, 6], "data": [0] * 6}],
                "parameters": {"comment": "a" * 40_000},
            }
        )
        headers = {"Content-Type": "application/json"}
        first = pool.submit(call, "POST", "/v2/models/linear/infer", body, headers)
        wait_for(lambda: gate.batches)
        assert rest(server)("POST", "/v2/models/linear/infer", body, headers)[0] == 429
        gate.opened.set()
        assert first.result()[0] == 200
        assert rest(server)("POST", "/v2/models/linear/infer", body, headers)[0] == 200


def request_of(x, **more):
    request = service_pb2.ModelInferRequest(model_name="linear", **more)
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    return request


def test_past_its_deadline_a_request_is_answered_and_not_run(gated, gate, pool, rest, samples, stats, wait_for):
    with gated(max_batch=1) as server, grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = rest(server)
        first = pool.submit(call.infer, samples())
        wait_for(lambda: gate.batches)
        status, content = call.infer(samples(seed=1), parameters={"timeout": 30_000})
        assert status == 504
        assert "time limit" in content["error"]
        assert call.infer(samples(seed=2), headers={"X-Request-Timeout-Ms": "30"})[0] == 504
        assert call.infer(samples(seed=2), headers={"X-Request-Timeout-Ms": "soon"})[0] == 400
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request_of(samples(seed=3)), timeout=0.03)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        request = request_of(samples(seed=4))
        request.parameters["timeout"].int64_param = 30_000
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 0)
        gate.opened.set()
        first.result()
        assert call.infer(samples(seed=5))[0] == 200
        assert [float(x.flat[0]) for x in gate.batches] == [float(samples(seed=s).flat[0]) for s in (0, 5)]


def test_one_that_runs_too_long_is_answered_in_time(gated, gate, rest, samples, stats):
    with gated() as server:
        assert rest(server).infer(samples(), parameters={"timeout": 50_000})[0] == 504
        gate.opened.set()
        assert rest(server).infer(samples())[0] == 200


def test_the_servers_own_time_limit(gated, gate, rest, samples):
    with gated(timeout_s=0.05) as server:
        assert rest(server).infer(samples())[0] == 504
        assert rest(server).infer(samples(), parameters={"timeout": 60_000_000})[0] == 504


def test_what_nobody_waits_for_is_not_run(gated, gate, pool, rest, samples, stats, wait_for):
    with gated(max_batch=1) as server, grpc.insecure_channel(server.grpc_url) as channel:
        first = pool.submit(rest(server).infer, samples())
        wait_for(lambda: gate.batches)
        x = samples(seed=1)
        tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request(
            "POST", "/v2/models/linear/infer", json.dumps({"inputs": [tensor]}), {"Content-Type": "application/json"}
        )
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request_of(samples(seed=2)))
        stream_over = threading.Event()

        def requests():
            yield request_of(samples(seed=3))
            stream_over.wait(5)

        stream = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 3)
        connection.close()
        call.cancel()
        stream.cancel()
        stream_over.set()
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 0)
        gate.opened.set()
        first.result()
        assert rest(server).infer(samples(seed=4))[0] == 200
        assert [float(x.flat[0]) for x in gate.batches] == [float(samples(seed=s).flat[0]) for s in (0, 4)]
        wait_for(lambda: stats(server)["dyndeploy"]["rejected"] == {"cancelled": 3})


def test_a_drain_answers_what_has_begun_and_refuses_the_rest(gated, gate, pool, rest, samples, stats, wait_for):
    with gated(max_batch=1) as server:
        call = rest(server)
        idle = socket.create_connection(("127.0.0.1", server.port))
        answers = [pool.submit(call.infer, samples(seed=i)) for i in range(4)]
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 3)
        server.stop()
        wait_for(lambda: rest(server)("GET", "/v2/health/ready")[0] == 503)
        assert rest(server)("GET", "/v2/health/live")[0] == 200
        status, content = rest(server).infer(samples())
        assert status == 503
        assert "shutting down" in content["error"]
        gate.opened.set()
        assert [a.result()[0] for a in answers] == [200] * 4
        idle.close()
    assert len(gate.batches) == 4


def test_a_drain_ends_in_time(gated, gate, pool, rest, samples, stats, wait_for):
    with gated(max_batch=1, drain_timeout_s=0.2) as server:
        call = rest(server)
        answers = [pool.submit(call.infer, samples(seed=i)) for i in range(3)]
        wait_for(lambda: stats(server)["dyndeploy"]["waiting"] == 2)
        server.stop()
        assert [a.result()[0] for a in answers] == [503] * 3


def test_both_protocols_at_once_and_every_request_is_counted(shared, pool, rest, samples, alone, stats):
    before = stats(shared)["inference_stats"]["success"]["count"]
    with grpc.insecure_channel(shared.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def both(seed):
            x = samples(1 + seed % 3, 3, seed)
            answer = stub.ModelInfer(request_of(x))
            y = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)
            np.testing.assert_array_equal(y, alone(x))
            np.testing.assert_array_equal(rest(shared).infer(x)[1], alone(x))

        list(pool.map(both, range(40)))
    assert stats(shared)["inference_stats"]["success"]["count"] - before == 80
