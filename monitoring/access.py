"""Who may read a monitor that listens beyond loopback: whoever has the token, over TLS.

The token is that of the webhook. Prometheus sends it as a bearer; a browser asks its user for a password, and the name
beside it does not matter. `/healthz` stays open: a kubelet has no token, and it says nothing but that the loop turns.
"""

import base64
import binascii
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from monitoring.webhook import PATH, check_token
from service.contract.errors import ConfigError, Unauthenticated

OPEN = frozenset({"/healthz", PATH})
"""The webhook asks for the token itself, and counts those who do not have it."""


class Guarded:
    """An ASGI app behind the token; lifespan and the open paths pass."""

    def __init__(self, app: ASGIApp, token_file: Path | None) -> None:
        self._app = app
        self._token_file = token_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                check_token(bearer(Request(scope).headers.get("authorization", "")), self._token_file)
            except (ConfigError, Unauthenticated) as error:
                headers = {"WWW-Authenticate": 'Basic realm="blastwatch monitor"'}
                refused = JSONResponse({"error": str(error)}, status_code=401, headers=headers)
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


def bearer(authorization: str) -> str:
    """A browser's name and password as `Bearer PASSWORD`; any other header as it is."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        pair = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return f"Bearer {pair.partition(':')[2]}"
