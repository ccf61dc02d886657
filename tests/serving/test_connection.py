"""Requests for inference on one connection: in pieces, one behind the other, refused, left alone."""

import json
import socket
import threading
import time

import numpy as np
import pytest

END = b"\r\n\r\n"


def infer(x, *headers, path="/v2/models/linear/infer", identity="", version="1.1", length=None):
    """The bytes of a request with raw tensors."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    content = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(content | ({"id": identity} if identity else {})).encode()
    lines = [f"POST {path} HTTP/{version}", "Host: x", *headers, f"Inference-Header-Content-Length: {len(head)}"]
    lines += ["Content-Type: application/octet-stream", f"Content-Length: {length or len(head) + x.nbytes}"]
    return "\r\n".join(lines).encode() + END + head + x.tobytes()


class Client:
    """A connection, and the responses that come on it."""

    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        self.data = b""

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.socket.close()

    def response(self):
        """(status, headers, body) of the next one."""
        self._until(lambda: END in self.data)
        head, _, self.data = self.data.partition(END)
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        self._until(lambda: len(self.data) >= length)
        body, self.data = self.data[:length], self.data[length:]
        return int(status.split()[1]), headers, body

    def array(self):
        status, headers, body = self.response()
        assert status == 200, body
        length = int(headers["inference-header-content-length"])
        (output,) = json.loads(body[:length])["outputs"]
        return np.frombuffer(body[length:], np.float32).reshape(output["shape"])

    def ended(self):
        return self.socket.recv(1) == b""

    def _until(self, enough):
        while not enough():
            piece = self.socket.recv(1 << 16)
            assert piece, f"the server has closed the connection after {self.data!r}"
            self.data += piece


def test_many_at_once_are_answered_in_order(shared, samples, alone):
    inputs = [samples(1 + i % 3, 1 + i % 5, seed=i) for i in range(300)]
    with Client(shared) as client:
        data = b"".join(infer(x, identity=str(i)) for i, x in enumerate(inputs))
        threading.Thread(target=client.socket.sendall, args=(data,)).start()
        for x in inputs:
            np.testing.assert_array_equal(client.array(), alone(x))


def test_inference_and_other_requests_take_turns(shared, samples, alone):
    x = samples()
    other = b"GET /v2/models/linear HTTP/1.1\r\nHost: x\r\n\r\n"
    with Client(shared) as client:
        client.socket.sendall((infer(x) + other) * 20)
        for _ in range(20):
            np.testing.assert_array_equal(client.array(), alone(x))
            status, _, body = client.response()
            assert (status, json.loads(body)["name"]) == (200, "linear")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_in_pieces(shared, samples, alone, size):
    x = samples(3, 4)
    data = infer(x)
    with Client(shared) as client:
        for at in range(0, len(data), size):
            client.socket.sendall(data[at : at + size])
            if at < 20 * size:
                time.sleep(0.001)
        np.testing.assert_array_equal(client.array(), alone(x))


def test_numbers_change_while_the_rest_of_a_request_stays(shared, samples, alone):
    with Client(shared) as client:
        for seed in range(30):
            x = samples(1 + seed % 2, seed=seed)
            client.socket.sendall(infer(x))
            np.testing.assert_array_equal(client.array(), alone(x))
        good = infer(x)
        # The JSON is known by now, and the data behind it is shorter than it says.
        client.socket.sendall(infer(x, length=len(good.partition(END)[2]) - 4)[:-4])
        status, _, body = client.response()
        assert (status, b"ends within the data of x" in body) == (400, True)


def test_a_client_that_asks_before_it_sends(shared, samples, alone):
    x = samples()
    head, _, body = infer(x, "Expect: 100-continue").partition(END)
    with Client(shared) as client:
        client.socket.sendall(head + END)
        client._until(lambda: END in client.data)
        assert client.data == b"HTTP/1.1 100 Continue" + END
        client.data = b""
        client.socket.sendall(body)
        np.testing.assert_array_equal(client.array(), alone(x))
        client.socket.sendall(head.replace(b"linear", b"nobody") + END)
        assert client.response()[0] == 404


def test_after_a_refusal_the_connection_goes_on(shared, samples, alone):
    x = samples()
    with Client(shared) as client:
        for path, status in (("/v2/models/nobody/infer", 404), ("/v2/models/linear/versions/2/infer", 404)):
            data = infer(x, path=path)
            client.socket.sendall(data[:-5])
            assert client.response()[0] == status
            client.socket.sendall(data[-5:] + infer(x))
            np.testing.assert_array_equal(client.array(), alone(x))


def test_addresses_of_inference(shared, samples, alone):
    x = samples()
    with Client(shared) as client:
        for path in ("/v2/models/linear/versions/1/infer", "/v2/models/%6cinear/infer", "/v2/models/linear/infer?a=b"):
            client.socket.sendall(infer(x, path=path))
            np.testing.assert_array_equal(client.array(), alone(x))


@pytest.mark.parametrize(("headers", "version"), [(("Connection: close",), "1.1"), ((), "1.0")])
def test_a_connection_that_is_not_kept(shared, samples, alone, headers, version):
    x = samples()
    with Client(shared) as client:
        client.socket.sendall(infer(x, *headers, version=version))
        status, answered, _ = client.response()
        assert (status, answered["connection"]) == (200, "close")
        assert client.ended()


def test_a_connection_without_requests_is_closed(serve, bundles, samples):
    with serve(bundles / "linear", keep_alive_s=1, grpc_port=None) as server, Client(server) as client:
        for _ in range(3):
            client.socket.sendall(infer(samples()))
            client.array()
            time.sleep(0.4)
        assert client.ended()


def test_a_client_that_goes_within_its_body_holds_nothing(serve, bundles, samples, stats, wait_for):
    with serve(bundles / "linear", grpc_port=None) as server:
        for end in (-1, -60):
            with Client(server) as client:
                client.socket.sendall(infer(samples())[:end])
        wait_for(lambda: stats(server)["dyndeploy"]["rejected"] == {"cancelled": 2})
        assert server._registry.entries["linear"].model._leases == 0


def test_a_drain_does_not_wait_for_the_rest_of_a_body(serve, bundles, samples):
    with serve(bundles / "linear", grpc_port=None, drain_timeout_s=1) as server, Client(server) as client:
        client.socket.sendall(infer(samples())[:-1])
        time.sleep(0.2)
        server.stop()
        status, headers, _ = client.response()
        assert (status, headers["connection"]) == (503, "close")
        assert client.ended()
