"""Fault points: named places where a test makes a process die or fail.

`COUNTERFOIL_FAULT=name:kill` ends the process by SIGKILL when it reaches the point `name`;
`name:raise` raises `InjectedFault` there; a third part, `name:kill:3`, waits for the third time.
Without the variable a point costs one environment lookup and does nothing. Anybody who can set a
process's environment can kill it anyway, so the switch grants nothing new; it is logged when it
takes effect.
"""

import logging
import os
import signal
from collections import Counter

VARIABLE = "COUNTERFOIL_FAULT"

_log = logging.getLogger(__name__)
_reached: Counter[str] = Counter()


class InjectedFault(Exception):  # noqa: N818 - it is not an error of the program
    """Raised at a fault point at the request of a test."""


def fault_point(name: str) -> None:
    """Die or raise here if the environment says so; otherwise do nothing."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, rest = wanted.partition(":")
    if point != name:
        return
    kind, _, nth = rest.partition(":")
    _reached[name] += 1
    if _reached[name] != int(nth or 1):
        return
    _log.warning("fault point %s reached: %s", name, kind)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise InjectedFault(name)
