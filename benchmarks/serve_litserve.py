"""The same session behind LitServe, with its batching: the numbers of a float32 sample in base64, in JSON.

python benchmarks/serve_litserve.py BUNDLE PORT THREADS
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np

from dyndeploy import open_session

#: How many requests are put together, and how long they are waited for.
MOST, TIMEOUT_S = 16, 0.001


class Api(litserve.LitAPI):  # type: ignore[misc]
    """A model of one input; a worker imports this class by its name."""

    def __init__(self, bundle: str, threads: int) -> None:
        super().__init__(max_batch_size=MOST, batch_timeout=TIMEOUT_S)
        self._bundle, self._threads = bundle, threads

    def setup(self, device: str) -> None:
        self.session = open_session(self._bundle, "onnxruntime", threads=self._threads)
        self.output = self.session.outputs[0].name
        self.spec = self.session.inputs[0]
        self.sample = self.spec.size_at({name: dim.min for name, dim in self.session.dims.items()})[1:]

    def decode_request(self, request: dict[str, str]) -> Any:
        return np.frombuffer(base64.b64decode(request["data"]), np.float32).reshape(self.sample)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self.session.run({self.spec.name: x})[self.output]

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, str]:
        return {"data": base64.b64encode(np.ascontiguousarray(output).tobytes()).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[1], int(sys.argv[3])), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False)
