"""Consecutive epochs in a small log, made by the rule; a test can spoil any statement before it is signed.

`Spec(draw=lambda d: replace(d, …))` changes a statement; what comes later in the log follows it. Receipts are
entries only: the rule looks at nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.runtime.keys import public_bytes
from shared.selection import beacon
from shared.selection.draw import DrawnReceipt, Logged, by_bundle, node_hash, sample, selection_seed
from shared.selection.party import BeaconParty
from shared.statements.beacons import BeaconReveal
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.disclosures import DisclosureRequest
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.verification.draw_check import DrawChecked, Known, Wrong, check_draw
from shared.verification.epoch_record import gather
from shared.verification.trust import Trust
from tests.vectors.samples import NOW, ORIGIN, octets, signing_key

AUTHORITY = signing_key("authority")
PARTIES = tuple(
    BeaconParty(name, ORIGIN, octets(f"beacon of {name}"), signing_key(name))
    for name in ("witness-1", "custodian-1", "custodian-2")
)
KEYS = Trust.of(
    authority=public_bytes(AUTHORITY),
    parties={party.name: public_bytes(party.key) for party in PARTIES},
)
DEADLINE = NOW + 3_600_000
Edit = Callable[[Any], Any]


def same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Spec:
    """One epoch: how it is drawn, and what is spoiled in it."""

    bundles: Sequence[int] = (0, 1, 0, 1, 0, 1, 0, 0)
    """The key bundle of each receipt."""
    rate_ppm: int = 400_000
    floor: int = 1
    parties: Sequence[BeaconParty] = PARTIES
    silent: int = 0
    """How many parties do not reveal; they are the last ones."""
    drawn: bool = True
    strict_floor: int | None = None
    strict: Sequence[int] = ()
    """The key bundles that the seal names as strict."""
    keys: Mapping[str, Ed25519PrivateKey] = field(default_factory=dict)
    """Who signs open, seal or draw instead of the authority."""
    commitment: Edit = same
    opened: Edit = same
    seal: Edit = same
    reveals: Edit = same
    draw: Edit = same


class Book:
    """The log: entries in order, with the public statements and the non-public receipts."""

    def __init__(self, *specs: Spec, origin: str = ORIGIN) -> None:
        self.origin = origin
        self.entries: list[bytes] = []
        self.statements: list[tuple[int, bytes]] = []
        self.receipts: list[Logged] = []
        self.requests: list[DisclosureRequest] = []
        self.rules: list[list[DrawnReceipt]] = []
        """What the rule draws from each epoch."""
        opened = self._open(0, specs[0])
        first = len(self.entries)
        for epoch, spec in enumerate(specs):
            for bundle in spec.bundles:
                self._receive(octets(f"bundle {bundle}"))
            following = specs[epoch + 1] if epoch + 1 < len(specs) else Spec()
            after = self._open(epoch + 1, following)  # before the seal, as epochs adjoin
            size = len(self.entries)
            self._end(epoch, spec, opened, first, size)
            opened, first = after, size

    def put(self, raw: bytes) -> bytes:
        """Log a public statement."""
        self.statements.append((len(self.entries), raw))
        self.entries.append(entry_of(raw))
        return raw

    def signed(self, value: Any, key: Ed25519PrivateKey = AUTHORITY) -> bytes:
        """Log a statement by the authority."""
        return self.put(sign(value, key=key, issuer="authority", subject=f"epoch-{value.epoch}"))

    def _receive(self, bundle: bytes) -> None:
        entry = octets(f"receipt {len(self.entries)}")
        self.receipts.append(Logged(entry, len(self.entries), bundle))
        self.entries.append(entry)

    def _open(self, epoch: int, spec: Spec) -> bytes:
        parties = [replace(party, origin=self.origin) for party in spec.parties]
        commitments = [self.put(spec.commitment(party.commit(epoch))) for party in parties]
        value = EpochOpen(
            epoch=epoch, at=NOW, first=0, rate_ppm=spec.rate_ppm, floor=spec.floor,
            strict_floor=spec.strict_floor,
            commitments=tuple(entry_of(raw) for raw in commitments),
        )  # fmt: skip
        return self.signed(spec.opened(value), spec.keys.get("open", AUTHORITY))

    def _end(self, epoch: int, spec: Spec, opened: bytes, first: int, size: int) -> None:
        inside = [receipt for receipt in self.receipts if first <= receipt.index < size]
        value = spec.seal(
            EpochSeal(
                epoch=epoch, at=NOW, open=entry_of(opened), first=first, size=size,
                root=octets(f"root {size}"),
                nodes={bundle: node_hash(found) for bundle, found in by_bundle(inside).items()},
                strict=tuple(sorted(octets(f"bundle {number}") for number in spec.strict)) or None,
            )
        )  # fmt: skip
        seal = self.signed(value, spec.keys.get("seal", AUTHORITY))
        speaking = spec.parties[: len(spec.parties) - spec.silent]
        told = [reveal(replace(party, origin=self.origin), epoch, seal) for party in speaking]
        reveals = [self.put(raw) for raw in spec.reveals(told)]
        r = beacon.combine([open_as(BeaconReveal, raw, None)[0].reveal for raw in reveals])
        seed = selection_seed(self.origin, value.size, value.root, r)
        whole = bool(spec.silent) or not spec.parties
        raised = {octets(f"bundle {number}"): spec.strict_floor or 0 for number in spec.strict}
        rule = sample(
            seed, inside, rate_ppm=spec.rate_ppm, floor=spec.floor, whole=whole, raised=raised
        )
        self.rules.append(rule)
        if spec.drawn:
            draw = Draw(
                epoch=epoch, seal=entry_of(seal), reveals=tuple(entry_of(raw) for raw in reveals),
                whole=whole, seed=seed, drawn=tuple(item.index for item in rule),
            )  # fmt: skip
            raw = self.signed(spec.draw(draw), spec.keys.get("draw", AUTHORITY))
            self.requests += [_request(item, raw) for item in rule]

    def check(
        self,
        *,
        now: int = NOW,
        known: Known | None = None,
        trust: Trust = KEYS,
        judged: bool = True,
    ) -> list[DrawChecked]:
        """Check every epoch, with all that an auditor knows unless a test says otherwise."""
        auditor = Known(
            entries=dict(enumerate(self.entries)),
            receipts=self.receipts,
            all_receipts=True,
            requests=self.requests,
            judged=frozenset(r.receipt for r in self.requests) if judged else frozenset(),
        )
        return [
            check_draw(record, origin=self.origin, now=now, trust=trust, known=known or auditor)
            for record in gather(self.statements)
        ]

    def wrong(self, **options: Any) -> list[tuple[int, int, Wrong]]:
        """Return (epoch, step, what is wrong) of all faults."""
        return [
            (checked.epoch, fault.step, fault.wrong)
            for checked in self.check(**options)
            for fault in checked.faults
        ]


def reveal(party: BeaconParty, epoch: int, seal: bytes) -> bytes:
    """Return a party's reveal of an epoch under a seal."""
    value = BeaconReveal(
        party=party.name, origin=party.origin, epoch=epoch, seal=entry_of(seal),
        reveal=beacon.reveal(party.secret, party.origin, epoch),
    )  # fmt: skip
    return sign(value, key=party.key, issuer=party.name, subject=f"epoch-{epoch}")


def _request(item: DrawnReceipt, draw: bytes) -> DisclosureRequest:
    return DisclosureRequest(
        receipt=item.entry, index=item.index, draw=entry_of(draw), reason=item.reason,
        recipient=octets("worker"), deadline=DEADLINE,
    )  # fmt: skip
