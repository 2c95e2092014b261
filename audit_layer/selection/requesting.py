"""Disclosure requests as the authority signs them: which worker gets which, and until when evidence is waited for. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from audit_layer.selection.settings import PeerSettings
from audit_layer.selection.work import Assignment, Kind
from shared.runtime.keys import Signer
from shared.selection.draw import DrawnReceipt
from shared.statements.cose import read_as, sign
from shared.statements.disclosures import DisclosureReason, DisclosureRequest


@dataclass(frozen=True, slots=True)
class Requesting:
    """Turns what is due into work with a signed disclosure request."""

    name: str
    """The authority's."""
    key: Signer
    peers: Sequence[PeerSettings]
    disclosure_ms: int

    def drawn(self, drawn: DrawnReceipt, draw: bytes, epoch: int, now: int) -> Assignment:
        """Return the first work on a drawn receipt, given the draw's log entry."""
        peer = self.peers[_lot(drawn.entry) % len(self.peers)]
        return self._assigned(
            drawn.entry, drawn.index, draw, drawn.reason, peer, Kind.PRIMARY, epoch, now
        )

    def asked(self, receipt: bytes, index: int, audit_request: bytes, now: int) -> Assignment:
        """Return the first work on what a tenant asked for: another worker's than a draw would give it to, if there are two."""
        peer = self.peers[(_lot(receipt) + 1) % len(self.peers)]
        reason = DisclosureReason.TENANT
        return self._assigned(receipt, index, audit_request, reason, peer, Kind.ASKED, None, now)

    def further(
        self, done: Assignment, kind: Kind, heard: Collection[str], now: int
    ) -> Assignment | None:
        """Return another worker's work on a receipt that `heard` have judged; None if there is no other worker."""
        peer = next((peer for peer in self.peers if peer.name not in heard), None)
        if peer is None:
            return None
        first = read_as(DisclosureRequest, done.request_statement)
        reason = DisclosureReason.CONFIRM
        return self._assigned(
            done.receipt, first.index, first.draw, reason, peer, kind, done.epoch, now
        )

    def _assigned(
        self,
        receipt: bytes,
        index: int,
        ground: bytes,
        reason: DisclosureReason,
        peer: PeerSettings,
        kind: Kind,
        epoch: int | None,
        now: int,
    ) -> Assignment:
        deadline = now + self.disclosure_ms
        request = DisclosureRequest(
            receipt=receipt,
            index=index,
            draw=ground,
            reason=reason,
            recipient=peer.hpke_key_id,
            deadline=deadline,
        )
        return Assignment(
            receipt=receipt,
            epoch=epoch,
            worker=peer.name,
            request_statement=sign(request, key=self.key, issuer=self.name),
            deadline=deadline,
            kind=kind,
        )


def _lot(entry: bytes) -> int:
    return int.from_bytes(entry[:4], "big")
