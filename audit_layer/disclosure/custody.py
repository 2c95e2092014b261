"""Shares of one request, asked of all its custodians at once: the first k that fit are enough (protocol §6.2.2).

Pure but for the threads: what is asked, and how an answer is checked, comes from the caller.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from audit_layer.disclosure.at_once import as_they_come
from shared.envelope.header import Header
from shared.runtime.errors import CounterfoilError
from shared.statements.disclosures import EscrowReport
from shared.verification.escrow_check import escrow_is_bad

PATIENCE_S: Final = 60.0
"""Longer than custodians that answer at all take; those that do not must not hold up a worker's other cases."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Heard:
    """What asking one custodian came to: a share that fits, an escrow report that the log holds, or why neither."""

    share: tuple[int, bytes] | None = None
    """Its index (from 1) and the share."""
    report: EscrowReport | None = None
    why: str = ""


Ask = Callable[[threading.Event], Heard]
"""Asks one custodian; the event is set once nobody waits for the share any more."""


@dataclass(slots=True, repr=False)
class Gathered:
    """What custodians have answered so far."""

    header: Header
    receipt: bytes
    """Its entry."""
    envelope: bytes
    """Hash of the envelope."""
    pending: int
    """How many custodians have not answered yet."""
    shares: dict[int, bytes] = field(default_factory=dict)
    reports: list[EscrowReport] = field(default_factory=list)
    """Those that the log holds."""
    refusals: list[str] = field(default_factory=list)

    @property
    def convicts(self) -> bool:
        """Whether the client is to blame for its escrow."""
        return escrow_is_bad(self.header, self.receipt, self.envelope, self.reports)

    @property
    def enough(self) -> bool:
        """Whether the secret can be recombined."""
        return len(self.shares) >= self.header.threshold

    @property
    def settled(self) -> bool:
        """Whether no answer that is still to come can change the outcome."""
        k, n = self.header.threshold, len(self.header.shares)
        may_open = len(self.shares) + self.pending >= k
        may_convict = len(self.reports) + self.pending > n - k
        return self.enough or self.convicts or not (may_open or may_convict)

    @property
    def why(self) -> str:
        """Why there are too few shares, for people."""
        told = [f"{each.custodian} reports that its wrap does not fit" for each in self.reports]
        return f"{len(self.shares)} of {self.header.threshold} shares: " + "; ".join(
            sorted([*told, *self.refusals])
        )

    def add(self, heard: Heard) -> None:
        """Count one custodian's answer."""
        self.pending -= 1
        if heard.share is not None:
            index, share = heard.share
            self.shares[index] = share
        elif heard.report is not None:
            self.reports.append(heard.report)
        else:
            self.refusals.append(heard.why)


def ask_all(asking: Mapping[str, Ask], gathered: Gathered, *, within_s: float = PATIENCE_S) -> None:
    """Ask every custodian (by name) at once; return as soon as the outcome is settled, or after `within_s` seconds.

    Who has not answered by then is not waited for.
    """
    over = threading.Event()
    asked = [partial(_heard, name, ask, over) for name, ask in asking.items()]
    for heard in () if gathered.settled else as_they_come(asked, within_s=within_s):
        gathered.add(heard)
        if gathered.settled:
            break
    over.set()


def _heard(name: str, ask: Ask, over: threading.Event) -> Heard:
    """Ask one custodian; whatever goes wrong with it must not stop an audit that others make possible."""
    try:
        return ask(over)
    except CounterfoilError as error:
        return Heard(why=str(error))
    except Exception as error:  # the thread's boundary: the waiting side counts on an answer
        logger.exception("asking custodian %s failed", name)
        return Heard(why=f"{name}: {type(error).__name__}")
