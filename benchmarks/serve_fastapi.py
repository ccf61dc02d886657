"""The same session behind plain FastAPI: the numbers of one float32 tensor in and out, with no protocol around.

python benchmarks/serve_fastapi.py BUNDLE PORT THREADS
"""

from __future__ import annotations

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from dyndeploy import open_session


def main(bundle: str, port: int, threads: int) -> None:
    """A handler in FastAPI's thread pool, one request a run."""

    session = open_session(bundle, "onnxruntime", threads=threads)
    (spec,), output = session.inputs, session.outputs[0].name
    sample = spec.size_at({name: dim.min for name, dim in session.dims.items()})[1:]
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        array = np.frombuffer(await request.body(), np.float32).reshape(-1, *sample)
        answer = await run_in_threadpool(session.run, {spec.name: array})
        return Response(answer[output].tobytes(), media_type="application/octet-stream")

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
