"""A small log with one sealed epoch and one disclosure case, any part of which a test can spoil.

`World(seal=lambda s: replace(s, …))` changes a statement before it is signed (whatever comes later in the log
follows it); `World(signer={"draw": key})` has another key sign it; `case(field=…)` changes what is shown.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.sealing import Candidate, SealedRequest, seal_request
from shared.envelope.stages import ChainStage
from shared.runtime import keys
from shared.runtime.keys import public_bytes
from shared.selection import beacon
from shared.selection.draw import drawn_by_rate, floor_of, node_hash, selection_seed
from shared.selection.party import BeaconParty, Revealed
from shared.statements.beacons import BeaconReveal
from shared.statements.cose import entry_of, sign
from shared.statements.disclosures import AuditRequest, DisclosureReason, DisclosureRequest
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.statements.orders import Order, Part
from shared.statements.receipts import Chain, Receipt
from shared.statements.request import RequestBody, SamplingSettings
from shared.statements.verdicts import Outcome, Reason, Verdict
from shared.translog import policy as translog
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.notes import SignatureType, Signer
from shared.translog.proofs import inclusion_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign as sign_checkpoint
from shared.translog.tlog_proof import TlogProof
from shared.translog.tree import leaf_hash
from shared.verification.limits import Limits, Recipient, Terms
from shared.verification.release_case import ReleaseCase
from shared.verification.release_check import Permitted, check_release
from shared.verification.trust import Pins, Role, Trust
from tests.vectors.samples import BUNDLE, NOW, ORDER, ORIGIN, RECEIPT, hpke_key, octets, signing_key

AUTHORITY, NODE, TENANT, OPERATOR = (
    signing_key(name) for name in ("authority", "node", "tenant", "operator")
)
LOG = Signer(ORIGIN, SignatureType.ED25519, octets("log"))
WITNESS = Signer("witness.example/w1", SignatureType.COSIGNATURE_ED25519, octets("witness"))
LOG_POLICY = translog.LogPolicy((LOG.verifier,), (WITNESS.verifier,), 1)
WORKERS = tuple(Recipient(name, hpke_key(name).public_bytes) for name in ("worker-1", "worker-2"))
PARTIES = tuple(
    BeaconParty(name, ORIGIN, octets(f"beacon of {name}"), signing_key(name))
    for name in ("witness-1", "custodian-1")
)
TRUST = Trust.of(
    LOG_POLICY,
    authority=public_bytes(AUTHORITY),
    workers={worker.name: public_bytes(signing_key(worker.name)) for worker in WORKERS},
    parties={party.name: public_bytes(party.key) for party in PARTIES},
    operators={"gpu-farm": public_bytes(OPERATOR)},
    tenants={"acme": public_bytes(TENANT)},
)
TERMS = Terms("custodian-1", WORKERS, Limits(max_rate_ppm=500_000, max_floor=2))
RECEIPTS = 32
"""Half of them are drawn, by a seed that is another one in each process: enough that neither none nor all can be."""
BUNDLE_RAW = sign(BUNDLE, key=OPERATOR, issuer="gpu-farm")
Edit = Callable[[Any], Any]


def sealed(*, stage: bool = False) -> SealedRequest:
    """The one request that all receipts of the world answer: for its node, or another one whose stage it is."""
    return _sealed(stage)


@cache
def _sealed(stage: bool) -> SealedRequest:
    node = Candidate(entry_of(BUNDLE_RAW), BUNDLE.hpke_key)
    head = Candidate(octets("the head's key bundle"), BUNDLE.hpke_key)
    return seal_request(
        RequestBody(settings=SamplingSettings(max_tokens=4), prompt="x"),
        tenant="acme",
        candidates=[head if stage else node],
        stages=[ChainStage(node.entry, node.hpke_key)] if stage else (),
        custodians=[hpke_key("custodian").public_bytes],
        threshold=1,
        model_root=octets("model"),
        max_output_tokens=4,
        policy=AuditPolicy(Audit.SAMPLED),
        expiry_ms=NOW + 1000,
    )


class World:
    """Statements in log order, and the case for one receipt: with a draw or, if `asked`, with its tenant's audit request."""

    def __init__(
        self,
        *,
        reason: DisclosureReason = DisclosureReason.DRAW,
        rate_ppm: int = 500_000,
        floor: int = 0,
        strict_floor: int | None = None,
        missing: int = 0,
        no_parties: bool = False,
        asked: bool = False,
        stage: bool = False,
        parties: tuple[BeaconParty, ...] = PARTIES,
        subject: Callable[["World"], int] | None = None,
        signer: Mapping[str, Ed25519PrivateKey] | None = None,
        before: tuple[bytes, ...] = (),
        **edits: Edit,
    ) -> None:
        self.entries: list[bytes] = []
        self._asked, self.audit, self._stage = asked, b"", stage
        self._edits, self._signers = edits, dict(signer or {})
        parties = () if no_parties else parties
        commit: Callable[[BeaconParty], bytes] = edits.get(
            "commitment", lambda party: party.commit(3)
        )
        self.commitments = [commit(party) for party in parties]
        for raw in (*before, BUNDLE_RAW, *self.commitments):
            self._log(raw)
        self.open = self._put(
            "open",
            EpochOpen(
                epoch=3,
                at=NOW,
                first=0,
                commitments=tuple(entry_of(raw) for raw in self.commitments),
                rate_ppm=rate_ppm,
                floor=floor,
                strict_floor=strict_floor,
            ),
            AUTHORITY,
        )
        self._strict = strict_floor is not None
        first = len(self.entries)
        self._put_receipts()
        self._put_seal(first)
        self._put_draw(parties[: len(parties) - missing], rate_ppm, strict_floor or floor)
        self.chosen = (subject or (lambda world: world.drawn[0]))(self)
        self._put_request(reason)

    # -- building ------------------------------------------------------------------------------------

    def _put_receipts(self) -> None:
        request = sealed(stage=self._stage)
        order = Order(
            **{
                **{name: getattr(ORDER, name) for name in ("created", "expiry", "rate_card")},
                "tenant": "acme",
                "number": 41,
                "attempt": 0,
                "ctx": request.ctx,
                "kc": request.kc,
                "envelope": request.envelope_hash,
                "bundle": entry_of(BUNDLE_RAW),
                "max_input_tokens": 4,
                "max_output_tokens": 4,
                "part": Part(octets("the head's order"), 1) if self._stage else None,
            }
        )
        self.order = self._sign("order", order, TENANT)
        self.receipts: dict[int, bytes] = {}
        for number in range(RECEIPTS):
            receipt = replace(
                RECEIPT,
                order=entry_of(self.order),
                bundle=entry_of(BUNDLE_RAW),
                ctx=request.ctx,
                kc=request.kc,
                envelope=request.envelope_hash,
                node_sequence=number + 1,
                chain=Chain(1, octets("sent"), octets("received")) if self._stage else None,
            )
            index = len(self.entries)
            self.receipts[index] = self._put("receipt", receipt, NODE)

    def _put_seal(self, first: int) -> None:
        size = len(self.entries)
        self.node_entries = [entry_of(raw) for raw in self.receipts.values()]
        seal = EpochSeal(
            epoch=3,
            at=NOW,
            open=entry_of(self.open),
            first=first,
            size=size,
            root=root_at(size, lookup_in([leaf_hash(entry) for entry in self.entries])),
            nodes={entry_of(BUNDLE_RAW): node_hash(self.node_entries)},
            strict=(entry_of(BUNDLE_RAW),) if self._strict else None,
        )
        self.seal_value: EpochSeal = self._edits.get("seal", lambda s: s)(seal)
        self.seal = self._put("seal", seal, AUTHORITY)

    def _put_draw(self, parties: tuple[BeaconParty, ...], rate_ppm: int, floor: int) -> None:
        self.reveals = []
        for party in parties:
            value = BeaconReveal(
                party=party.name,
                origin=ORIGIN,
                epoch=3,
                seal=entry_of(self.seal),
                reveal=beacon.reveal(party.secret, ORIGIN, 3),
            )
            self.reveals.append(self._put("reveal", value, party.key))
        r = beacon.combine([beacon.reveal(party.secret, ORIGIN, 3) for party in parties])
        self.seed = selection_seed(ORIGIN, self.seal_value.size, self.seal_value.root, r)
        whole = len(parties) < len(self.commitments) or not self.commitments
        smallest = floor_of(self.seed, self.node_entries, floor)
        self.drawn = [
            index
            for index, raw in self.receipts.items()
            if whole
            or drawn_by_rate(self.seed, entry_of(raw), rate_ppm)
            or entry_of(raw) in smallest
        ]
        draw = Draw(
            epoch=3,
            seal=entry_of(self.seal),
            reveals=tuple(entry_of(raw) for raw in self.reveals),
            whole=whole,
            seed=self.seed,
            drawn=tuple(self.drawn),
        )
        self.draw = self._put("draw", draw, AUTHORITY)

    def _put_request(self, reason: DisclosureReason) -> None:
        receipt = entry_of(self.receipts[self.chosen])
        if self._asked:
            wanted = AuditRequest(tenant="acme", receipt=receipt, at=NOW)
            self.audit = self._put("audit", wanted, TENANT)
        request = DisclosureRequest(
            receipt=receipt,
            index=self.chosen,
            draw=entry_of(self.audit if self._asked else self.draw),
            reason=reason,
            recipient=WORKERS[0].key_id,
            deadline=NOW + 1000,
        )
        self.request = self._put("request", request, AUTHORITY)
        verdict = Verdict(
            receipt=receipt,
            request=octets("first request"),
            worker="worker-2",
            outcome=Outcome.FAIL,
            reason=Reason.TOKENS,
            evidence=octets("findings"),
            numeric_profile=octets("profile"),
            at=NOW,
        )
        self.verdict = self._put("verdict", verdict, signing_key("worker-2"))

    def _sign(self, name: str, value: Any, key: keys.Signer) -> bytes:
        edited = self._edits.get(name, lambda v: v)(value)
        return sign(edited, key=self._signers.get(name, key), issuer="issuer")

    def _put(self, name: str, value: Any, key: keys.Signer) -> bytes:
        return self._log(self._sign(name, value, key))

    def _log(self, raw: bytes) -> bytes:
        self.entries.append(entry_of(raw))
        return raw

    def publish(self, raw: bytes) -> str:
        """Log a further statement, once, and return its tlog-proof."""
        if entry_of(raw) not in self.entries:
            self._log(raw)
        return self.proof(raw)

    # -- showing -------------------------------------------------------------------------------------

    def proof(
        self, raw: bytes, *, log: Signer = LOG, witnesses: tuple[Signer, ...] = (WITNESS,)
    ) -> str:
        """Return the tlog-proof of a statement under the log's last checkpoint."""
        index, size = self.entries.index(entry_of(raw)), len(self.entries)
        lookup = lookup_in([leaf_hash(entry) for entry in self.entries])
        checkpoint = Checkpoint(log.verifier.name, size, root_at(size, lookup))
        note = sign_checkpoint(checkpoint, [log], time_s=NOW // 1000)
        note = note.with_signatures(
            tuple(cosign(w, checkpoint, time_s=NOW // 1000) for w in witnesses)
        )
        return TlogProof(index, tuple(inclusion_proof(index, size, lookup)), note.encode()).encode()

    def case(self, **changes: Any) -> ReleaseCase:
        """Return the case as an honest audit layer shows it, with changes."""
        receipt = self.receipts[self.chosen]
        why = self._audit_request() if self._asked else self._drawn()
        return ReleaseCase(
            **{
                "request": self.request,
                "request_proof": self.proof(self.request),
                "receipt": receipt,
                "receipt_proof": self.proof(receipt),
                "bundle": BUNDLE_RAW,
                "order": self.order,
                "envelope": sealed(stage=self._stage).envelope_bytes,
                **why,
                "verdict": self.verdict,
                "verdict_proof": self.proof(self.verdict),
                **changes,
            }
        )

    def _drawn(self) -> dict[str, Any]:
        return {
            "open": self.open,
            "open_proof": self.proof(self.open),
            "seal": self.seal,
            "seal_proof": self.proof(self.seal),
            "draw": self.draw,
            "draw_proof": self.proof(self.draw),
            "commitments": tuple(self.commitments),
            "reveals": tuple(self.reveals),
            "floor_entries": tuple(self.node_entries),
        }

    def _audit_request(self) -> dict[str, Any]:
        return {"audit": self.audit, "audit_proof": self.proof(self.audit)}

    def check(
        self,
        trust: Trust = TRUST,
        revealed: Revealed | None = None,
        terms: Terms = TERMS,
        **changes: Any,
    ) -> Permitted:
        """Check the case."""
        return check_release(self.case(**changes), trust, terms, revealed=revealed)

    @property
    def receipt(self) -> Receipt:
        """The receipt that the case is about."""
        from shared.statements.cose import open_as

        return open_as(Receipt, self.receipts[self.chosen], None)[0]


def not_by_rate(world: World) -> int:
    """Choose a receipt that the rate does not draw."""
    return next(index for index in world.receipts if index not in world.drawn)


def trusting(role: Role, pins: Pins | None) -> Trust:
    """Return the world's trust with other keys for a role; with none known for None."""
    others = {known: keys for known, keys in TRUST.pins.items() if known is not role}
    return Trust(TRUST.log, others if pins is None else {**others, role: pins})
