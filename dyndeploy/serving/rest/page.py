"""The page at /: a few files, read once; a request names a file and never a path."""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dyndeploy.serving.errors import RequestError

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOLDER = "/page/"
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Page:
    """The files of dyndeploy/serving/page: index.html at /, all of them below /page/."""

    def __init__(self) -> None:
        folder = resources.files("dyndeploy.serving") / "page"
        self._files = {
            entry.name: (entry.read_bytes(), kind)
            for entry in (folder.iterdir() if folder.is_dir() else ())
            if entry.is_file() and (kind := _TYPES.get(f".{entry.name.rpartition('.')[2]}"))
        }

    def serves(self, path: str) -> bool:
        """Whether the path is one of the page's; these are shown to everybody, as they hold no secret."""
        return path == "/" or path.startswith(_FOLDER)

    def routes(self) -> list[Route]:
        """Where the files are."""
        return [Route("/", self._index), Route(_FOLDER + "{name}", self._file)] if self._files else []

    async def _index(self, request: Request) -> Response:
        return self._answer("index.html")

    async def _file(self, request: Request) -> Response:
        return self._answer(request.path_params["name"])

    def _answer(self, name: str) -> Response:
        if name not in self._files:
            raise _NoFileError(f"There is no file {name[:80]!r}.")
        content, kind = self._files[name]
        return Response(content, headers={"content-type": kind, **_HEADERS})


class _NoFileError(RequestError):
    status, code = 404, "NOT_FOUND"
