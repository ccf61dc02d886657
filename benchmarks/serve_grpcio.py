"""The same session behind plain grpcio: the numbers of one float32 tensor in and out, with no protocol around.

python benchmarks/serve_grpcio.py BUNDLE PORT THREADS
"""

from __future__ import annotations

import asyncio
import sys

import grpc.aio
import numpy as np
import uvloop

from dyndeploy import open_session


async def main(bundle: str, port: int, threads: int) -> None:
    """A handler of the asyncio server on uvloop, one request a run, in a thread as FastAPI's."""
    session = open_session(bundle, "onnxruntime", threads=threads)
    (spec,), output = session.inputs, session.outputs[0].name
    sample = spec.size_at({name: dim.min for name, dim in session.dims.items()})[1:]

    async def predict(request: bytes, call: object) -> bytes:
        array = np.frombuffer(request, np.float32).reshape(-1, *sample)
        answer = await asyncio.to_thread(session.run, {spec.name: array})
        data: bytes = answer[output].tobytes()
        return data

    handler = grpc.unary_unary_rpc_method_handler(predict)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Peer", {"Predict": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
