"""The REST surface: which address is answered by what, and what every request passes on its way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

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
from dyndeploy.serving.metrics import Metrics, model_statistics
from dyndeploy.serving.models.registry import Entry, refuse_parameters
from dyndeploy.serving.protocol.metadata import MODEL_VERSION, model_config, model_metadata, server_metadata
from dyndeploy.serving.rest.body import Head, Receive, read_body
from dyndeploy.serving.rest.page import Page
from dyndeploy.serving.rest.responses import JSON, TEXT, Exchange, Send

_SMALL_BODY = 64 << 10
_log = logging.getLogger(__name__)
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"
_HEALTH = "/v2/health/"


class RestApp:
    """The ASGI application: everything but inference, which `http.Protocol` takes out.

    Args:
        context: of the server.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._metrics = Metrics(context.registry, context.budget)
        self._page = Page()
        self._app = Starlette(
            routes=self._routes(),
            exception_handlers={HTTPException: _http_error, DynError: _dyn_error, Exception: _defect},
        )
        self._app.router.redirect_slashes = False  # what is not there is not there

    def _routes(self) -> list[BaseRoute]:
        return [
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2", self._server),
            Route("/v2/models/stats", self._all_statistics),
            *(
                Route(f"{base}{path}", endpoint)
                for path, endpoint in (
                    ("", self._metadata),
                    ("/ready", self._model_ready),
                    ("/config", self._config),
                    ("/stats", self._statistics),
                )
                for base in (_MODEL, _VERSION)
            ),
            # Those with POST never come here: see `http.Protocol`.
            *(Route(f"{base}/infer", self._metadata, methods=["POST"]) for base in (_MODEL, _VERSION)),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"]),
            Route("/metrics", self._show_metrics),
            *self._page.routes(),
        ]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request: let in, name, route, note down."""
        if scope["type"] != "http":  # uvicorn is told to send neither lifespan nor websocket
            raise RuntimeError(f"{scope['type']} is not spoken here.")
        begun_ns = time.perf_counter_ns()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        exchange = Exchange(headers)
        scope["state"] = {"exchange": exchange}
        path = scope["path"]
        try:
            self._context.guard.check_origin(headers)
            if not path.startswith(_HEALTH) and not self._page.serves(path):
                self._context.guard.check_token(headers.get(b"authorization"))
            await self._app(scope, receive, send)
        except RequestError as error:
            await exchange.refuse(send, error)
        except asyncio.CancelledError:  # the end of a drain that takes too long
            if not exchange.status:
                await exchange.refuse(send, UnavailableModelError("The server is shutting down."))
        except Exception:
            _log.exception("defect", extra={"request_id": exchange.identity, "path": path[:200]})
            if not exchange.status:
                await exchange.refuse(send, DEFECT)
        exchange.note(self._context.journal, f"{scope['method']} {path[:200]}", begun_ns, scope["client"])

    # What the protocol asks.

    async def _live(self, request: Request) -> Response:
        return _json(request, {"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = self._context.registry.ready
        return _json(request, {"ready": ready}, 200 if ready else 503)

    async def _server(self, request: Request) -> Response:
        return _json(request, server_metadata())

    async def _metadata(self, request: Request) -> Response:
        return _json(request, model_metadata(self._context.registry.model(*_asked(request))))

    async def _config(self, request: Request) -> Response:
        return _json(request, model_config(self._context.registry.model(*_asked(request))))

    async def _model_ready(self, request: Request) -> Response:
        model = self._context.registry.model(*_asked(request))
        return _json(request, {"name": model.name, "ready": True})

    async def _statistics(self, request: Request) -> Response:
        entry = self._context.registry.entry(*_asked(request))
        return _json(request, {"model_stats": [_with_own(entry)]})

    async def _all_statistics(self, request: Request) -> Response:
        return _json(request, {"model_stats": [_with_own(e) for e in self._context.registry.entries.values()]})

    async def _index(self, request: Request) -> Response:
        asked = await self._small_object(request)
        entries = list(self._context.registry.entries.values())
        if asked.get("ready") is True:
            entries = [entry for entry in entries if entry.model is not None]
        return _json(
            request,
            [{"name": e.name, "version": MODEL_VERSION, "state": e.state, "reason": e.reason} for e in entries],
        )

    async def _load(self, request: Request) -> Response:
        await self._controlled(request)
        await self._context.registry.load(request.path_params["model"])
        return _json(request, {})

    async def _unload(self, request: Request) -> Response:
        await self._controlled(request)
        await self._context.registry.unload(request.path_params["model"])
        return _json(request, {})

    async def _show_metrics(self, request: Request) -> Response:
        return _response(request, self._metrics.text(), TEXT)

    async def _controlled(self, request: Request) -> None:
        if not self._context.settings.may_control:
            raise ForbiddenError(
                "Models are not loaded or unloaded by clients here.",
                why="The server is reachable from other machines and has no token.",
                fix="dyndeploy serve --token-file FILE, or --control",
            )
        if self._context.registry.draining:
            raise UnavailableModelError("The server is shutting down.")
        asked = await self._small_object(request)
        parameters = asked.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise RequestError("The parameters are not an object.")
        refuse_parameters(parameters)

    async def _small_object(self, request: Request) -> Mapping[str, Any]:
        """The body, which may be empty, as an object."""
        context = self._context
        head = Head(_exchange(request).headers)
        body = await read_body(request.receive, head, _SMALL_BODY, context.budget, context.settings.body_timeout_s)
        body.give()
        data = bytes(body.data)[body.start :]
        try:
            content = orjson.loads(data) if data.strip() else {}
        except orjson.JSONDecodeError as error:
            raise RequestError("The body is not JSON.", why=f"{error}.") from None
        if not isinstance(content, dict):
            raise RequestError("The body is not a JSON object.")
        return content


def _exchange(request: Request) -> Exchange:
    exchange: Exchange = request.scope["state"]["exchange"]
    return exchange


def _asked(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _with_own(entry: Entry) -> dict[str, Any]:
    """The statistics of the protocol, and what the page shows beside them."""
    statistics, model = entry.statistics, entry.model
    own = {
        "state": entry.state,
        "reason": entry.reason,
        "waiting": model.waiting if model else 0,
        "running": model.running if model else 0,
        "instances": model.instances if model else 0,
        "rejected": dict(statistics.rejected),
        "reloads": statistics.reloads,
        "failed_reloads": statistics.failed_reloads,
    }
    return {**model_statistics(entry), "dyndeploy": own}


def _json(request: Request, content: Any, status: int = 200) -> Response:
    return _response(request, orjson.dumps(content), JSON, status)


def _response(request: Request, body: bytes, kind: bytes, status: int = 200) -> Response:
    exchange = _exchange(request)
    exchange.status = status
    headers = {name.decode(): value.decode() for name, value in exchange.reply_headers}
    return Response(body, status, {**headers, "content-type": kind.decode(), "cache-control": "no-store"})


async def _http_error(request: Request, error: Exception) -> Response:
    """No such address, or not with this method."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    what = {404: f"There is nothing at {path!r}.", 405: f"{request.method} is not for {path!r}."}
    words = what.get(error.status_code, str(error.detail))
    response = _json(request, {"error": words}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _defect(request: Request, error: Exception) -> Response:
    """For what nobody expected; the error itself goes on to the log."""
    _exchange(request).error = DEFECT
    return _json(request, {"error": one_line(DEFECT)}, DEFECT.status)


async def _dyn_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DynError)
    refused = as_request_error(error)
    _exchange(request).error = refused
    response = _json(request, {"error": one_line(refused)}, refused.status)
    response.headers.update(refused.headers)
    return response
