"""GRPCInferenceService: what each method answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from dyndeploy.errors import DynError
from dyndeploy.serving.context import Context
from dyndeploy.serving.errors import (
    DEFECT,
    ForbiddenError,
    RequestError,
    UnavailableModelError,
    as_request_error,
    one_line,
)
from dyndeploy.serving.journal import outcome_of, request_id
from dyndeploy.serving.metrics import model_statistics
from dyndeploy.serving.models.model import Model
from dyndeploy.serving.models.per_model import PerModel
from dyndeploy.serving.models.registry import refuse_parameters
from dyndeploy.serving.protocol.metadata import MODEL_VERSION, model_config, model_metadata, server_metadata
from dyndeploy.serving.rpc.codec import Codec, Frame, Frames, in_stream
from dyndeploy.serving.rpc.messages import SERVICE, ModelStreamInferResponse, message

#: Requests of one stream that may be in the server at once; the stream is not read any further meanwhile.
STREAM_WINDOW = 64
_NO_TOKEN = ("ServerLive", "ServerReady")
_log = logging.getLogger(__name__)
_Method = Callable[[Any], Awaitable[Any]]


class Service:
    """The methods of the service.

    Args:
        context: of the server.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._frames = Frames()
        self._codecs = PerModel(lambda model: Codec(model.name, model.bundle.manifest, model.datatypes))

    def handler(self) -> Any:
        """What a gRPC server is given."""
        plain: dict[str, _Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, method),
                _reader(message(f"{name}Request")),
                lambda answer: answer.SerializeToString(),
            )
            for name, method in plain.items()
        }
        # These take and give bytes: see `rpc.codec`.
        methods["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _guarded(self, name: str, method: _Method) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, call: Any) -> Any:
            begun_ns = time.perf_counter_ns()
            error = None
            try:
                if name not in _NO_TOKEN:
                    self._check_token(call)
                return await method(_readable(request))
            except Exception as raised:
                error = _refusal(raised)
                await call.abort(_code(error), one_line(error))
            finally:
                self._note(name, "", call, begun_ns, error)

        return answer

    def _check_token(self, call: Any) -> None:
        if self._context.settings.token is not None:
            self._context.guard.check_token(_metadata(call, "authorization"))

    def _note(self, name: str, identity: str, call: Any, begun_ns: int, error: RequestError | None) -> None:
        if self._context.journal.active:
            self._context.journal.write(
                "grpc",
                name,
                request_id(identity or _metadata(call, "x-request-id")),
                error.code if error else "OK",
                begun_ns,
                error,
                _metadata(call, "traceparent"),
                client=call.peer(),
            )

    # Inference.

    async def _infer(self, data: bytes, call: Any) -> bytes:
        begun_ns = time.perf_counter_ns()
        error, identity = None, ""
        try:
            self._check_token(call)
            frame, data = self._frames.read(data)
            identity = frame.message.id
            return await self._answer(frame, data, call.time_remaining(), begun_ns)
        except Exception as raised:
            error = _refusal(raised)
            await call.abort(_code(error), one_line(error))
            raise  # which abort has done
        finally:
            self._note("ModelInfer", identity, call, begun_ns, error)

    async def _answer(self, frame: Frame, data: bytes, remaining_s: float | None, begun_ns: int) -> bytes:
        registry, message = self._context.registry, frame.message
        entry = registry.entry(message.model_name, message.model_version)
        try:
            model = registry.model(message.model_name, message.model_version)
            model.lease()
            try:
                response = await self._run(model, frame, data, remaining_s)
            finally:
                model.release()
        except DynError as error:
            entry.statistics.failed(outcome_of(as_request_error(error)), time.perf_counter_ns() - begun_ns)
            raise
        except asyncio.CancelledError:
            entry.statistics.failed("cancelled", time.perf_counter_ns() - begun_ns)
            raise
        entry.statistics.succeeded(time.perf_counter_ns() - begun_ns)
        return response

    async def _run(self, model: Model, frame: Frame, data: bytes, remaining_s: float | None) -> bytes:
        context = self._context
        held = sum([size for _, size in frame.raw]) or len(data)
        context.budget.take(held)
        try:
            codec = self._codecs.of(model)
            decoded = codec.decode(frame, data)
            limits = [s for s in (remaining_s, decoded.layout.timeout_s) if s is not None]
            deadline = context.deadline(min(limits) if limits else None)
            return codec.encode(decoded, await model.answer(decoded.inputs, decoded.layout.sizes, deadline))
        finally:
            context.budget.give(held)

    async def _stream(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        """Answers come in the order of the requests; one that is refused does not end the stream."""
        try:
            self._check_token(call)
        except RequestError as error:
            await call.abort(_code(error), one_line(error))
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(STREAM_WINDOW)
        reader = asyncio.ensure_future(self._read_stream(requests, call, answers))
        current: asyncio.Task[bytes] | None = None
        try:
            while (current := await answers.get()) is not None:
                yield await current
            await reader
        finally:
            reader.cancel()
            left = [current] if current is not None else []
            while not answers.empty():
                waiting = answers.get_nowait()
                if waiting is not None:
                    left.append(waiting)
            for task in left:
                task.cancel()

    async def _read_stream(
        self, requests: AsyncIterator[bytes], call: Any, answers: asyncio.Queue[asyncio.Task[bytes] | None]
    ) -> None:
        try:
            async for request in requests:
                await answers.put(asyncio.ensure_future(self._one_of_stream(request, call)))
        finally:
            await answers.put(None)

    async def _one_of_stream(self, data: bytes, call: Any) -> bytes:
        begun_ns = time.perf_counter_ns()
        error, identity, name = None, "", ""
        try:
            frame, data = self._frames.read(data)
            identity, name = frame.message.id, frame.message.model_name
            return in_stream(await self._answer(frame, data, call.time_remaining(), begun_ns))
        except Exception as raised:
            error = _refusal(raised)
            answer = ModelStreamInferResponse(error_message=one_line(error))
            answer.infer_response.id = identity  # or nobody knows which one failed
            answer.infer_response.model_name = name
            serialised: bytes = answer.SerializeToString()
            return serialised
        finally:
            self._note("ModelStreamInfer", identity, call, begun_ns, error)

    # Everything else.

    async def _live(self, request: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any) -> Any:
        return message("ServerReadyResponse")(ready=self._context.registry.ready)

    async def _model_ready(self, request: Any) -> Any:
        try:
            self._context.registry.model(request.name, request.version)
        except RequestError:  # a question with two answers; clients do not expect an error
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=True)

    async def _server(self, request: Any) -> Any:
        return message("ServerMetadataResponse")(**server_metadata())

    async def _metadata(self, request: Any) -> Any:
        model = self._context.registry.model(request.name, request.version)
        return json_format.ParseDict(model_metadata(model), message("ModelMetadataResponse")())

    async def _config(self, request: Any) -> Any:
        model = self._context.registry.model(request.name, request.version)
        return json_format.ParseDict({"config": model_config(model)}, message("ModelConfigResponse")())

    async def _statistics(self, request: Any) -> Any:
        registry = self._context.registry
        names = [request.name] if request.name else list(registry.entries)
        found = [model_statistics(registry.entry(name, request.version)) for name in names]
        return json_format.ParseDict({"model_stats": found}, message("ModelStatisticsResponse")())

    async def _index(self, request: Any) -> Any:
        answer = message("RepositoryIndexResponse")()
        for entry in self._context.registry.entries.values():
            if entry.model is not None or not request.ready:
                answer.models.add(name=entry.name, version=MODEL_VERSION, state=entry.state, reason=entry.reason)
        return answer

    async def _load(self, request: Any) -> Any:
        self._check_control(request)
        await self._context.registry.load(request.model_name)
        return message("RepositoryModelLoadResponse")()

    async def _unload(self, request: Any) -> Any:
        self._check_control(request)
        await self._context.registry.unload(request.model_name)
        return message("RepositoryModelUnloadResponse")()

    def _check_control(self, request: Any) -> None:
        if not self._context.settings.may_control:
            raise ForbiddenError(
                "Models are not loaded or unloaded by clients here.",
                why="The server is reachable from other machines and has no token.",
                fix="dyndeploy serve --token-file FILE, or --control",
            )
        if self._context.registry.draining:
            raise UnavailableModelError("The server is shutting down.")
        refuse_parameters(dict(request.parameters))


class _Unreadable:
    """In the place of a request whose bytes are none."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _reader(kind: Any) -> Callable[[bytes], Any]:
    """Like `kind.FromString`, whose errors gRPC would call UNKNOWN, as if they were the server's."""

    def read(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            return _Unreadable(str(error))

    return read


def _readable(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise RequestError("The message cannot be read.", why=request.reason)
    return request


def _refusal(error: Exception) -> RequestError:
    """The refusal that an error is; what nobody expected goes to the log."""
    if isinstance(error, DynError):
        return as_request_error(error)
    _log.error("defect", exc_info=error)
    return DEFECT


def _metadata(call: Any, key: str) -> str | None:
    for name, value in call.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return None


def _code(error: RequestError) -> Any:
    return getattr(grpc.StatusCode, error.code)
