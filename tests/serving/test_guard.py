"""Who may ask, how much, and what becomes of bytes that are no request."""

import json
import socket
import ssl
import subprocess
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dyndeploy.serving.rest import http as http_module

TOKEN = "correct-horse-battery"


def test_with_a_token_everything_but_health_and_the_page_asks_for_it(serve, bundles, rest, samples):
    with serve(bundles / "linear", token=TOKEN) as server:
        call = rest(server)
        for method, path in (
            ("GET", "/v2"),
            ("GET", "/metrics"),
            ("GET", "/v2/models/linear"),
            ("POST", "/v2/models/linear/infer"),
            ("POST", "/v2/repository/models/linear/load"),
            ("GET", "/nothing"),
        ):
            for wrong in ({}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": f"Basic {TOKEN}"}):
                status, content = call(method, path, headers=wrong)
                assert status == 401
                assert "token" in content["error"]
                assert call.headers["www-authenticate"] == "Bearer"
        assert call("GET", "/v2/health/live")[0] == 200
        assert call("GET", "/v2/health/ready")[0] == 200
        assert call("GET", "/")[0] != 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert call("GET", "/v2", headers=right)[0] == 200
        assert call.infer(samples(), headers=right)[0] == 200
        with triton_grpc.InferenceServerClient(server.grpc_url) as client:
            assert client.is_server_live()
            for wrong in (None, {"authorization": "Bearer no"}):
                with pytest.raises(triton_grpc.InferenceServerException, match="token is missing or wrong"):
                    client.get_model_metadata("linear", headers=wrong)
            assert client.get_model_metadata("linear", headers={"authorization": f"Bearer {TOKEN}"}).name == "linear"
        with grpc.insecure_channel(server.grpc_url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for attempt in (stub.ModelInfer, lambda r: list(stub.ModelStreamInfer(iter([r])))):
                with pytest.raises(grpc.RpcError) as error:
                    attempt(service_pb2.ModelInferRequest(model_name="linear"))
                assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, file = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", file, "-addext", names], check=True, capture_output=True)
    return file, key


def test_tls_for_both_protocols(serve, bundles, certificate, samples, alone):
    file, key = certificate
    x = samples()
    with serve(bundles / "linear", certificate=file, key=key, token=TOKEN) as server:
        assert server.url.startswith("https://")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        done = subprocess.run(
            ["curl", "-sS", "--cacert", file, "-H", f"Authorization: Bearer {TOKEN}", f"{server.url}/v2"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout)["name"] == "dyndeploy"
        for module, options in (
            (triton_http, {"ssl": True, "ssl_options": {"ca_certs": str(file)}}),
            (triton_grpc, {"ssl": True, "root_certificates": str(file)}),
        ):
            at = server.grpc_url if module is triton_grpc else server.url.removeprefix("https://")
            with module.InferenceServerClient(at, **options) as client:
                tensor = module.InferInput("x", x.shape, "FP32")
                tensor.set_data_from_numpy(x)
                lower = {name.lower(): value for name, value in headers.items()}
                result = client.infer("linear", [tensor], headers=lower)
                np.testing.assert_array_equal(result.as_numpy("y"), alone(x))
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            plain.settimeout(30)
            assert b"200" not in plain.recv(1000)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", server.port)) as raw, old.wrap_socket(raw) as secure:
            assert secure.version() in ("TLSv1.2", "TLSv1.3")


def test_pages_of_other_sites_are_refused(shared, rest, serve, bundles):
    call = rest(shared)
    own = f"http://127.0.0.1:{shared.port}"
    assert call("GET", "/v2", headers={"Origin": own})[0] == 200
    for origin in ("http://example.org", "null", f"http://127.0.0.1:{shared.port + 1}", "http://[", ""):
        status, content = call("POST", "/v2/repository/models/linear/unload", b"", {"Origin": origin})
        assert status == 403
        assert "error" in content
    # A name that a stranger lets point to this machine.
    evil = f"evil.example:{shared.port}"
    assert call("GET", "/v2", headers={"Origin": f"http://{evil}", "Host": evil})[0] == 403
    with serve(bundles / "linear", grpc_port=None, origins=("https://app.example",)) as server:
        assert server.grpc_url is None
        assert rest(server)("GET", "/v2", headers={"Origin": "https://app.example"})[0] == 200


def test_control_can_be_switched_off(serve, bundles, rest):
    with serve(bundles / "linear", control=False) as server:
        for verb in ("load", "unload"):
            status, content = rest(server)("POST", f"/v2/repository/models/linear/{verb}", {})
            assert status == 403
            assert "not loaded or unloaded" in content["error"]
        with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError) as error:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryModelUnload(
                service_pb2.RepositoryModelUnloadRequest(model_name="linear")
            )
        assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED


def exchange(server, data, *, shut=False, timeout=30):
    """What the server answers to bytes, until it closes or says nothing more."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as client:
        answer = b""
        try:
            client.sendall(data)
            if shut:
                client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
        return answer


def post(length, body=b"", path="/v2/models/linear/infer", more=b""):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n".encode()
    return head + (b"Content-Length: %d\r\n" % length if length is not None else b"") + more + b"\r\n" + body


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /ä HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"),
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        post(None, b"zz\r\n", more=b"Transfer-Encoding: chunked\r\n"),
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request(shared, rest, data):
    answer = exchange(shared, data, shut=True)
    assert not answer or answer.startswith(b"HTTP/1.1 4") or (b"/v2 " in data and answer.startswith(b"HTTP/1.1 200"))
    if answer.startswith(b"HTTP/1.1 4"):
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert rest(shared)("GET", "/v2")[0] == 200


def test_a_body_that_is_announced_too_large_is_not_waited_for(shared):
    assert exchange(shared, post(10**9)).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_is_cut_off(shared, rest):
    pieces = iter([b"[" + b" " * 65536] * 400)
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as client:
        client.sendall(post(None, more=b"Transfer-Encoding: chunked\r\n"))
        answer = b""
        client.settimeout(0.02)
        for piece in pieces:
            try:
                client.settimeout(30)
                client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                client.settimeout(0.001)
                answer += client.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if answer:
                break
    assert answer.startswith(b"HTTP/1.1 413")


def test_an_endless_head_is_cut_off(shared):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\n")
        sent = 0
        try:
            for _ in range(1000):
                client.sendall(b"X-Filler: " + b"a" * 1000 + b"\r\n")
                sent += 1
                time.sleep(0.0005)
        except ConnectionError:
            pass
        assert sent < 1000


def test_a_head_and_a_body_that_dribble_are_given_up(monkeypatch, serve, bundles, rest):
    monkeypatch.setattr(http_module, "HEAD_TIMEOUT_S", 0.5)
    with serve(bundles / "linear", body_timeout_s=0.5, grpc_port=None) as server:
        assert exchange(server, b"GET /v2 HTTP/1.1\r\nHo").startswith(b"HTTP/1.1 408")
        assert exchange(server, b"") == b""
        answer = exchange(server, post(100, b"{"))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not arrive in time" in answer
        assert rest(server)("GET", "/v2")[0] == 200


def test_pipelined_requests_are_answered_in_order(shared):
    answer = exchange(shared, b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + post(2, b"{}"))
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.index(b"HTTP/1.1 400") > answer.rindex(b"HTTP/1.1 200")


def test_deep_json(shared):
    body = b'{"inputs":' + b"[" * 60_000
    answer = exchange(shared, post(len(body), body))
    assert answer.startswith(b"HTTP/1.1 400")
    nest = b"[" * 900 + b"]" * 900
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1,6],"data":' + nest + b"}]}"
    assert exchange(shared, post(len(body), body)).startswith(b"HTTP/1.1 400")


def test_an_answer_to_head_has_a_head_alone(shared):
    answer = exchange(shared, b"HEAD /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")
