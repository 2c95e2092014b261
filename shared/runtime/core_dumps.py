"""Processes that hold plaintext or keys leave no image of their memory behind when they crash."""

import resource
from typing import Final

from shared.runtime.process_guard import prctl

PR_SET_DUMPABLE: Final = 4


def forbid_core_dumps() -> None:
    """Leave no core dump of this process, nor, unless they ask for one, of those that it starts.

    The limit alone does not bind a collector to which the kernel pipes dumps; on Linux the process is therefore also made
    undumpable, which keeps other processes of its user from reading its memory. That attribute ends with `exec`, so every
    program that holds plaintext or keys calls this itself, before it reads any.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    prctl(PR_SET_DUMPABLE, 0)
