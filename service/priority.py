"""Which thread goes first where there are more of them than processors."""

import contextlib
import os
import threading

NICENESS = 5


def give_way(niceness: int = NICENESS) -> None:
    """The thread that calls this runs behind the process's other threads from now on, where the system can do that."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
