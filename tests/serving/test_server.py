"""Starting, ending, settings, logs, metrics, traces; and the command."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

import dyndeploy
from dyndeploy.cli import app
from dyndeploy.errors import DynError, MissingPackageError
from dyndeploy.serving import Server, Settings, logs


@pytest.fixture(autouse=True)
def _logs():
    """The command sets the loggers up for its process; here it is that of all tests."""
    loggers = [logging.getLogger(name) for name in ("dyndeploy.serving", "uvicorn.error")]
    before = [(logger, list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_metrics(serve, bundles, rest, samples):
    with serve(bundles / "linear") as server:
        call = rest(server)
        for seed in range(5):
            call.infer(samples(2, seed=seed))
        call.infer(samples(1, 6))
        status, text = call("GET", "/metrics")
        assert status == 200
        assert call.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = {
            (s.name, s.labels.get("reason") or s.labels.get("le")): s.value
            for family in text_string_to_metric_families(text.decode())
            for s in family.samples
            if s.labels.get("model") in ("linear", None)
        }
        assert found["nv_inference_request_success", None] == 5
        assert found["nv_inference_request_failure", "invalid"] == 1
        assert found["nv_inference_count", None] == 10
        assert found["nv_inference_exec_count", None] == 5
        for phase in ("request", "queue", "compute_infer"):
            assert found[f"nv_inference_{phase}_duration_us", None] > 0
        assert found["nv_inference_pending_request_count", None] == 0
        assert found["dyndeploy_request_duration_seconds_bucket", "+Inf"] == 5
        assert found["dyndeploy_request_duration_seconds_count", None] == 5
        assert found["dyndeploy_request_bytes", None] == 0
        assert found["dyndeploy_model_ready", None] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runtime": "abacus"}, "no runtime 'abacus'"),
        ({"port": -1}, "port: "),
        ({"instances": 0}, "instances: "),
        ({"colour": "red"}, "colour: "),
        ({"token": "short"}, "token: "),
        ({"token": "a\nbcdefgh"}, "no header can carry"),
        ({"certificate": "x.pem"}, "certificate and its key"),
        ({"certificate": "x.pem", "key": "y.pem"}, "no file x.pem"),
        ({"max_memory": 1 << 16, "options": {}, "host": "no.such.host.invalid", "grpc_port": None}, "cannot listen"),
        ({"max_batch": 9}, "max_batch=9"),
        ({"options": {"colour": 1}}, "no option colour"),
    ],
)
def test_settings_that_cannot_be(bundles, settings, words):
    with pytest.raises(DynError, match=words), Server(bundles / "linear", **{"port": 0, "grpc_port": 0, **settings}):
        pass


def test_a_secret_is_not_shown():
    assert "hunter2hunter2" not in repr(Settings.of({"token": "hunter2hunter2"}))


def test_bundles_that_cannot_be(bundles, tmp_path, make_linear):
    with pytest.raises(DynError, match="no bundle to serve"):
        Server([])
    with pytest.raises(DynError, match="not a bundle"):
        Server(tmp_path)
    make_linear(tmp_path / "linear")
    with pytest.raises(DynError, match="Two bundles are called linear"):
        Server([bundles / "linear", tmp_path / "linear"])
    make_linear(tmp_path / "large", max_batch=1000)
    with pytest.raises(DynError, match="all together 65536"):
        Server(tmp_path / "large", max_memory=1 << 16)


def test_a_port_that_is_taken(bundles, shared):
    with pytest.raises(DynError, match="REST cannot listen"), Server(bundles / "linear", port=shared.port):
        pass
    taken = {"port": 0, "grpc_port": shared.grpc_port}
    with pytest.raises(DynError, match="gRPC cannot listen"), Server(bundles / "linear", **taken):
        pass


def test_a_broken_bundle_does_not_start(make_linear, tmp_path):
    bundle = make_linear(tmp_path / "linear")
    (bundle / "model.onnx").write_bytes(b"no model")
    with pytest.raises(DynError, match="cannot be loaded"), Server(bundle, port=0, grpc_port=0):
        pass


def test_a_package_that_is_missing(monkeypatch, bundles):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingPackageError, match="uvicorn") as error:
        Server(bundles / "linear")
    assert "dyndeploy[serve]" in error.value.fix


def record(message, **fields):
    return logging.makeLogRecord({"msg": message, "levelname": "INFO", "created": 0.5, **fields})


def test_log_lines():
    line = json.loads(logs._Json().format(record("model ready", model="a b", n=3)))
    assert line == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "info",
        "event": "model ready",
        "model": "a b",
        "n": 3,
    }
    text = logs._Text().format(record("model ready", model="a\nb", n=3))
    assert text == "1970-01-01T00:00:00.500+00:00 info    model ready model='a\\nb' n=3"


def test_requests_are_logged_with_their_ids(serve, bundles, rest, samples, caplog):
    caplog.set_level(logging.INFO, "dyndeploy.serving")
    with serve(bundles / "linear", log_requests=True) as server:
        rest(server).infer(samples(), headers={"X-Request-Id": "one"})
        rest(server).infer(samples(1, 6), headers={"X-Request-Id": "two"})
        import tritonclient.grpc as triton

        with triton.InferenceServerClient(server.grpc_url) as client:
            x = samples()
            tensor = triton.InferInput("x", x.shape, "FP32")
            tensor.set_data_from_numpy(x)
            client.infer("linear", [tensor], request_id="three")
    lines = {r.request_id: r for r in caplog.records if r.getMessage() == "request"}
    assert lines["one"].status == "200"
    assert lines["one"].operation == "POST /v2/models/linear/infer"
    assert lines["one"].ms > 0
    assert (lines["two"].status, lines["two"].levelname) == ("400", "WARNING")
    assert "length=6" in lines["two"].error
    assert (lines["three"].protocol, lines["three"].status) == ("grpc", "OK")


def test_traces(serve, bundles, rest, samples, monkeypatch):
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    monkeypatch.setattr(trace_exporter, "OTLPSpanExporter", lambda endpoint: spans)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serve(bundles / "linear", grpc_port=None, traces="http://127.0.0.1:9/v1/traces") as server:
        rest(server).infer(samples(), headers={"traceparent": parent, "X-Request-Id": "one"})
        rest(server).infer(samples(1, 6))
    first, second = spans.get_finished_spans()
    assert first.name == "POST /v2/models/linear/infer"
    assert format(first.context.trace_id, "032x") == parent.split("-")[1]
    assert first.attributes["request.id"] == "one"
    assert first.end_time > first.start_time
    assert not second.status.is_ok
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingPackageError), serve(bundles / "linear", traces="http://127.0.0.1:9"):
        pass


def test_a_server_can_run_in_the_callers_thread(bundles):
    seen = []

    def started(server):
        seen.append(server.url)
        server.stop()

    Server(bundles / "linear", port=0, grpc_port=0).run(started=started, signals=False)
    assert seen[0].startswith("http://127.0.0.1:")


@contextlib.contextmanager
def command(*arguments):
    """`dyndeploy serve … --json`, and what it printed when it was ready."""
    program = [sys.executable, "-c", "from dyndeploy.cli import main; main()", "serve", *map(str, arguments), "--json"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        yield process, json.loads(line) if line else None
    finally:
        process.kill()
        process.communicate()


def get(url, path):
    with urllib.request.urlopen(url + path, timeout=60) as response:
        return json.loads(response.read())


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_command_serves_reloads_and_drains(make_linear, tmp_path):
    bundle = make_linear(tmp_path / "linear")
    token = tmp_path / "token"
    arguments = ("--port", 0, "--grpc-port", 0, "--threads", 1, "--log", "json", "--log-requests")
    with command(bundle, *arguments) as (process, ready):
        assert ready["models"] == ["linear"]
        assert get(ready["url"], "/v2/health/ready") == {"ready": True}
        digest = get(ready["url"], "/v2/models/linear/config")["parameters"]["digest"]
        make_linear(bundle, scale=2.0)
        process.send_signal(signal.SIGHUP)
        ends = time.monotonic() + 60
        while get(ready["url"], "/v2/models/linear/config")["parameters"]["digest"] == digest:
            assert time.monotonic() < ends
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
        lines = [json.loads(line) for line in log.splitlines()]
        assert [line["event"] for line in lines if line["event"] != "request"] == [
            "model ready",
            "ready",
            "model ready",
            "draining",
            "stopped",
        ]
        assert any(line.get("operation") == "GET /v2/health/ready" for line in lines)
    assert not token.exists()


def invoke(*arguments):
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


def test_the_command_refuses_with_words(bundles, tmp_path):
    empty = tmp_path / "token"
    empty.write_text("\n")
    for arguments, words in (
        ((tmp_path,), "is not a bundle"),
        ((bundles / "linear", "--token-file", tmp_path / "none"), "cannot be read"),
        ((bundles / "linear", "--token-file", empty), "is empty"),
        ((bundles / "linear", "--max-batch", 99), "max_batch=99"),
        ((bundles / "linear", "--certificate", empty), "certificate and its key"),
    ):
        done = invoke(*arguments, "--port", 0, "--grpc-port", 0)
        assert done.exit_code == 2, done.output
        assert words in done.stderr


def test_the_public_function_is_the_command(monkeypatch, bundles):
    ran = []
    monkeypatch.setattr(Server, "run", lambda self, started=None: ran.append(self.settings.port))
    dyndeploy.serve(bundles / "linear", port=4321)
    assert invoke(bundles / "linear", "--port", 4322).exit_code == 0
    assert ran == [4321, 4322]


def test_importing_the_settings_is_light():
    program = (
        "import sys, dyndeploy.serving\nfrom dyndeploy.serving import Settings, Server\n"
        "print({'torch', 'onnx', 'onnxruntime', 'grpc', 'uvicorn', 'starlette'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_many_connections_that_come_and_go_leave_nothing(shared, rest, samples):
    import socket

    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", shared.port))
        client.sendall(b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        client.close()
    ends = time.monotonic() + 60
    while True:
        text = rest(shared)("GET", "/metrics")[1].decode()
        held = next(line for line in text.splitlines() if line.startswith("dyndeploy_request_bytes "))
        if float(held.split()[1]) == 0:
            break
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert rest(shared).infer(samples())[0] == 200
    assert np.isfinite(rest(shared).infer(samples())[1]).all()
