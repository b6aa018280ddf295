"""A worker whose parent died stops as if it had been told to.

BentoML's parent process holds the workers together and starts those that end. Killed outright it cannot take them
along: they would go on answering, by themselves and out of anybody's sight, and hold the ports that a new start needs.
"""

import asyncio
import logging
import os
import signal
import sys

log = logging.getLogger(__name__)

POLL_S = 0.5
_PARENT = os.getppid()  # at import: the parent may die while the model is loaded
_WORKER = "_bentoml_impl.worker"


def end_with_parent() -> None:
    """From now on SIGTERM comes when the parent is gone. For the event loop; does nothing outside BentoML's workers."""
    main = getattr(sys.modules["__main__"], "__spec__", None)
    # A process that serves by itself may outlive the shell that started it.
    if main is None or not main.name.startswith(_WORKER):
        return
    loop = asyncio.get_running_loop()

    def look() -> None:
        if os.getppid() == _PARENT:
            loop.call_later(POLL_S, look)
            return
        log.error("the parent process is gone: stopping, so that the service can be started again")
        os.kill(os.getpid(), signal.SIGTERM)

    look()
