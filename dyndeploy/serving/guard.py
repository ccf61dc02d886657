"""Who may send requests: tokens, and pages of other sites."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from dyndeploy.serving.errors import ForbiddenError, UnauthorizedError
from dyndeploy.serving.settings import Settings

_LOCAL = {"localhost", "127.0.0.1", "::1"}


class Guard:
    """Checks requests of both protocols.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self._expected = settings.token.encode() if settings.token is not None else None
        self._origins = {_origin(origin) for origin in settings.origins}
        self._hosts = {settings.host, *_LOCAL} if settings.loopback else None

    def check_token(self, authorization: str | bytes | None) -> None:
        """Check the value of the header or metadata `authorization`.

        Raises:
            UnauthorizedError: there is a token, and this is not it.
        """
        if self._expected is None:
            return
        given = authorization.encode("latin-1", "replace") if isinstance(authorization, str) else authorization or b""
        scheme, _, token = given.partition(b" ")
        # The same time whatever differs, the scheme aside.
        if not hmac.compare_digest(token.strip(), self._expected) or scheme.lower() != b"bearer":
            raise UnauthorizedError("The token is missing or wrong.", fix="Authorization: Bearer TOKEN")

    def check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse what a browser sends for a page of another site.

        A page that anyone opened can reach a server on loopback; browsers say which page it was.

        Raises:
            ForbiddenError: it is another site's, and not one of `Settings.origins`.
        """
        given = headers.get(b"origin")
        if given is None:
            return
        origin, host = given.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")
        if _origin(origin) in self._origins:
            return
        try:
            place = urlsplit(origin)
            own = place.netloc.lower() == host.lower()
            # On loopback, a name that a stranger lets point here is not ours either.
            known = self._hosts is None or place.hostname in self._hosts
        except ValueError:
            own = known = False
        if not (own and known):
            raise ForbiddenError(f"Requests of {origin[:80]!r} are not taken.", fix="dyndeploy serve --origin ORIGIN")


def _origin(text: str) -> str:
    return text.strip().rstrip("/").lower()
