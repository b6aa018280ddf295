"""POST /alerts: Alertmanager's webhook. Who calls must know the token whose SHA-256 is in the token file.

The token is 256 random bits, so a plain hash of it is enough. The file is read at each call: a new token needs no
restart. Whatever is answered with 5xx Alertmanager sends again.
"""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitoring.alerts import Alert, Answer, asking
from monitoring.metrics import Metrics
from service.contract.errors import ConfigError, InvalidRequest, NotReady, TooLarge, Unauthenticated

PATH = "/alerts"
MOST_BYTES = 2**20
SLOWEST_BODY_S = 10.0
DIGEST = re.compile(r"[0-9a-f]{64}")
_logger = logging.getLogger(__name__)


def webhook(token_file: Path | None, metrics: Metrics, ask: Callable[[Sequence[Alert]], Answer]) -> Route:
    """The route. `ask` blocks; it may raise NotReady."""

    async def receive(request: Request) -> Response:
        try:
            # Nobody's body is read before it is known who sends it.
            check_token(request.headers.get("authorization", ""), token_file)
            alerts = asking(await _body(request))
        except ConfigError as error:
            return _refused(metrics, 403, "not_configured", error)
        except Unauthenticated as error:
            return _refused(metrics, 401, "unauthorised", error)
        except TooLarge as error:
            return _refused(metrics, 413, "bad_payload", error)
        except InvalidRequest as error:
            return _refused(metrics, 400, "bad_payload", error)
        try:
            found = await asyncio.to_thread(ask, alerts)
        except NotReady as error:
            _logger.warning("an alert is not answered yet, Alertmanager sends it again: %s", error)
            return JSONResponse({"error": str(error)}, status_code=503)
        metrics.alerts.labels(outcome=found.outcome).inc()
        if found.outcome == "refused":
            _logger.warning("%s: no retraining: %s", ", ".join(sorted({alert.name for alert in alerts})), found.why)
        return JSONResponse({"outcome": found.outcome, "why": found.why, "run": found.run})

    return Route(PATH, receive, methods=["POST"])


def check_token(authorization: str, token_file: Path | None) -> None:
    """Raises Unauthenticated unless the header has the token, ConfigError when nobody can have it."""
    if token_file is None:
        raise ConfigError("the webhook is off: set BLASTWATCH_MONITOR_TOKEN_FILE to a file with the token's SHA-256")
    try:
        expected = token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        expected = ""
    if not DIGEST.fullmatch(expected):
        raise ConfigError("BLASTWATCH_MONITOR_TOKEN_FILE must be a readable file with one SHA-256 in 64 hex digits")
    scheme, _, token = authorization.partition(" ")
    presented = hashlib.sha256(token.strip().encode()).hexdigest()
    if not hmac.compare_digest(presented, expected) or scheme.lower() != "bearer":
        raise Unauthenticated("send `authorization: Bearer TOKEN` with the token that the token file has the hash of")


async def _body(request: Request) -> bytes:
    """Raises TooLarge as soon as it is known to be, InvalidRequest when it does not come."""
    chunks, size = [], 0
    try:
        async with asyncio.timeout(SLOWEST_BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MOST_BYTES:
                    raise TooLarge(f"the message is above {MOST_BYTES} bytes: set max_alerts of the webhook lower")
                chunks.append(chunk)
    except TimeoutError:
        raise InvalidRequest(f"the message did not arrive within {SLOWEST_BODY_S:g} s") from None
    return b"".join(chunks)


def _refused(metrics: Metrics, status: int, reason: str, error: Exception) -> Response:
    metrics.webhook_refused.labels(reason=reason).inc()
    _logger.warning("the webhook turned a call away: %s", error)
    return JSONResponse({"error": str(error)}, status_code=status)
