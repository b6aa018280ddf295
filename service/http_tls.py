"""HTTP's certificate, shown to each new connection as its files have it then. gRPC's is in `service.grpc_access`."""

import gc
import logging
import ssl

from service import tls
from service.engine import Engine
from service.watched import PATIENCE_S, Watched

log = logging.getLogger(__name__)


def follow_certificate(engine: Engine) -> None:
    """New connections to this process's HTTP server see the certificate of now; a broken pair changes nothing.

    For a server that listens, or is about to, with a certificate from the settings. Raises ConfigError.
    """
    settings = engine.settings
    contexts = _server_contexts()
    if not contexts:
        log.warning("no TLS of HTTP is found: a renewed certificate is shown after a restart only")
        return
    watched = Watched(
        tls.pair(settings),
        lambda: tls.server_context(settings),
        lambda: engine.metrics.certificates_refused.inc(),
        patience_s=PATIENCE_S,
    )

    def show(connection: ssl.SSLSocket | ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        # Called in each handshake, whether the client names a server or not. Everything but the certificate stays.
        connection.context = watched.get()

    for context in contexts:
        context.sni_callback = show


def _server_contexts() -> list[ssl.SSLContext]:
    """Those of the HTTP server: nothing hands them out. gRPC has a TLS of its own, and other contexts are clients'."""
    found = [item for item in gc.get_referrers(ssl.SSLContext) if type(item) is ssl.SSLContext]
    return [context for context in found if context.protocol is ssl.PROTOCOL_TLS_SERVER]
