"""Every draw of the log checked over the query API: `counterfoil audit epochs --check` (protocol §6.1.1).

Statements are opened here and their signatures verified where keys are given; that the log has them at their
indexes is taken on the server's word. `counterfoil log monitor` takes nobody's word for that.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from audit_layer.api.schemas import VerdictView
from audit_layer.commands.paging import PAGE, Ask, pages
from audit_layer.commands.standings import records_of_views
from shared.codec.ids import parse_hex32
from shared.runtime.errors import Code, CounterfoilError
from shared.selection.draw import Logged
from shared.statements.disclosures import DisclosureReason, DisclosureRequest
from shared.verification.draw_check import DrawChecked, Known, Wrong, check_draw
from shared.verification.epoch_record import TYPES, EpochRecord, gather
from shared.verification.standing import Node, needs_strictness, standing_in
from shared.verification.trust import Trust

PUBLIC_PAGE: Final = 256


@dataclass(frozen=True, slots=True)
class EpochChecked:
    """One epoch, and the outcome of its check."""

    record: EpochRecord
    checked: DrawChecked
    receipts: int
    """How many of its receipts the token may see."""


def check_epochs(
    ask: Ask, *, after: int, origin: str | None, trust: Trust, now: int
) -> list[EpochChecked]:
    """Check all sealed epochs whose statements follow the log index `after`.

    An auditor's token checks everything; a tenant's or operator's, the steps over what it may see. Without
    `origin` the log's name is taken on the server's word. MALFORMED for answers that are not the query API's.
    """
    try:
        statements = [
            (int(item["log_index"]), base64.b64decode(item["raw"], validate=True))
            for item in pages(ask, "/v1/public/statements", after, PUBLIC_PAGE, type=sorted(TYPES))
        ]
        records = gather(statements)
        if not records:
            return []
        status = _permitted(ask, "/v1/status")
        name = origin or _origin(status, records)
        view = _View(ask, everything=status is not None, first=records[0].seal.value.first)
        return [view.check(record, origin=name, trust=trust, now=now) for record in records]
    except (KeyError, TypeError, ValueError) as error:
        raise CounterfoilError(
            Code.MALFORMED, f"an answer is not what the query API promises ({error})"[:300]
        ) from error


class _View:
    """What one token shows besides the public statements."""

    def __init__(self, ask: Ask, *, everything: bool, first: int) -> None:
        self._ask, self._everything = ask, everything
        self._requests = _requests(ask, first)
        verdicts = _permitted_pages(ask, "/v1/verdicts", -1 if everything else first)
        self._verdicts = (
            None if verdicts is None else [VerdictView.model_validate(item) for item in verdicts]
        )
        self._judged = (
            None
            if self._verdicts is None
            else frozenset(
                parse_hex32(view.receipt, "a receipt") for view in self._verdicts if not view.asked
            )
        )
        self._nodes: dict[bytes, Node] = {}
        """Nodes by key bundle, as far as receipts have named them."""

    def check(self, record: EpochRecord, *, origin: str, trust: Trust, now: int) -> EpochChecked:
        """Check one epoch; a receipt that was requested and then erased unjudged needs no verdict."""
        receipts = self._receipts(record)
        entries = {receipt.index: receipt.entry for receipt in receipts}
        known = Known(
            entries=entries if self._everything else None,
            receipts=receipts,
            all_receipts=self._everything,
            requests=self._requests,
            judged=self._judged,
            strict=self._strict(receipts, record) if self._everything else None,
        )
        checked = check_draw(record, origin=origin, now=now, trust=trust, known=known)
        if self._judged is not None and any(f.wrong is Wrong.OUTCOME for f in checked.faults):
            erased = self._erased(record, entries)
            known = replace(known, judged=self._judged | erased)
            checked = check_draw(record, origin=origin, now=now, trust=trust, known=known)
        return EpochChecked(record, checked, len(receipts))

    def _receipts(self, record: EpochRecord) -> list[Logged]:
        seal = record.seal.value
        found: list[Logged] = []
        size = min(max(seal.size - seal.first, 1), PAGE)
        for item in pages(self._ask, "/v1/receipts", seal.first - 1, size):
            if int(item["log_index"]) >= seal.size:
                break
            entry, bundle = (parse_hex32(item[name], name) for name in ("entry", "bundle"))
            found.append(Logged(entry, int(item["log_index"]), bundle))
            self._nodes[bundle] = str(item["operator"]), str(item["node"])
        return found

    def _strict(self, receipts: list[Logged], record: EpochRecord) -> frozenset[bytes]:
        """Return the key bundles of an epoch whose nodes the verdicts before its seal's size call for strictness with."""
        size = record.seal.value.size
        before = (view for view in self._verdicts or () if view.log_index < size)
        records = records_of_views(before)
        return frozenset(
            receipt.bundle
            for receipt in receipts
            if needs_strictness(standing_in(records, self._nodes[receipt.bundle]))
        )

    def _erased(self, record: EpochRecord, entries: Mapping[int, bytes]) -> frozenset[bytes]:
        """Return which drawn receipts without a verdict were erased."""
        drawn = record.draw.value.drawn if record.draw is not None else ()
        waiting = (entries[index] for index in drawn if index in entries)
        return frozenset(
            entry
            for entry in waiting
            if entry not in (self._judged or ())
            and self._ask(f"/v1/statements/{entry.hex()}")["erased"]
        )


def _requests(ask: Ask, after: int) -> list[DisclosureRequest] | None:
    found = _permitted_pages(ask, "/v1/disclosures", after)
    if found is None:
        return None
    return [
        DisclosureRequest(
            receipt=parse_hex32(said["receipt"], "a receipt"),
            index=said["index"],
            draw=parse_hex32(said["draw"], "a draw"),
            reason=DisclosureReason(said["reason"]),
            recipient=parse_hex32(said["recipient"], "a recipient"),
            deadline=said["deadline"],
        )
        for item in found
        if item["type"] == DisclosureRequest.TYPE and (said := item["payload"])
    ]


def _origin(status: Any, records: list[EpochRecord]) -> str:
    """Return the log's name as the server states it, or as the beacon's statements do."""
    if status is not None:
        return str(status["origin"])
    for record in records:
        for commitment in record.commitments:
            return commitment.value.origin
    raise CounterfoilError(
        Code.CONFIGURATION, "the log's name is not known", remedy="Pass it with --origin."
    )


def _permitted(ask: Ask, path: str, **parameters: Any) -> Any:
    """Return an answer; None when the token does not permit the request."""
    try:
        return ask(path, **parameters)
    except CounterfoilError as error:
        if error.code is Code.FORBIDDEN:
            return None
        raise


def _permitted_pages(ask: Ask, path: str, after: int) -> Iterator[Any] | None:
    """Return the items of a list that follow an index; None when the token does not permit it."""
    if _permitted(ask, path, after=after, limit=1) is None:
        return None
    return pages(ask, path, after)
