"""A small log with the receipts behind one line of an invoice, and proofs of that line, honest and made up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, read_as, sign
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.periods import NO_PERIOD, PeriodSeal, lines_root, period_line
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import Receipt
from shared.statements.verdicts import Reason, Verdict
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.policy import LogPolicy
from shared.translog.policy_file import PolicyFile
from shared.translog.proofs import inclusion_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign as sign_checkpoint
from shared.translog.tree import leaf_hash
from shared.verification.line_proof_file import (
    END_INDEX,
    Claim,
    Figures,
    Invoice,
    LineProof,
    Log,
    Logged,
    ReceiptPart,
    Scope,
    SealedLine,
    Term,
)
from shared.verification.payable import State
from shared.verification.rating import TokenKind
from shared.verification.trust import Trust
from tests.vectors import samples
from tests.vectors.bundle_samples import BUNDLE_LOG, KEY_BUNDLE, ORIGIN
from tests.vectors.generate_translog import TIME, WITNESSES
from tests.vectors.samples import NOW, octets, signing_key

DAY = 86_400_000
MODEL = octets("model")
SIGNERS = {
    "gpu-farm": "operator",
    "rival": "rival",
    "acme": "tenant",
    "worker-1": "worker",
    "worker-2": "worker 2",
    "authority": "authority",
}
"""Names, and the names of their keys."""
CARD = RateCard(
    name="list",
    operator="gpu-farm",
    currency="EUR",
    valid_from=0,
    prices=(Price(model_root=MODEL, input="1", cached="0.5", output="2", per=1000),),
)


def signed(value: Any, issuer: str, key: str | None = None) -> bytes:
    """Sign with the key that belongs to the issuer, or another one."""
    return sign(value, key=signing_key(key or SIGNERS[issuer]), issuer=issuer)


def verdict(receipt: bytes, worker: str, reason: Reason, confirms: bytes | None = None) -> bytes:
    value = Verdict(
        receipt=entry_of(receipt),
        request=octets("request"),
        worker=worker,
        outcome=reason.outcome,
        reason=reason,
        evidence=octets("evidence"),
        numeric_profile=octets("profile"),
        at=NOW,
        confirms=confirms,
    )
    return signed(value, worker)


def policy() -> LogPolicy:
    return LogPolicy.from_vkeys(
        logs=[BUNDLE_LOG.verifier.vkey()],
        witnesses=[witness.verifier.vkey() for witness in WITNESSES],
        threshold=2,
    )


OWN = Trust(policy()).with_signers(
    {name: {public_bytes(signing_key(key))} for name, key in SIGNERS.items()}
)


@dataclass
class Ledger:
    """A log that grows, and proofs under its newest checkpoint."""

    raws: list[bytes]
    orders: dict[bytes, bytes]
    """By receipt's entry."""

    def add(self, raw: bytes) -> bytes:
        self.raws.append(raw)
        return raw

    def receipt(
        self,
        number: int,
        *,
        attempt: int = 0,
        card: bytes,
        bundle: bytes = KEY_BUNDLE,
        node: str = "node",
        usage: dict[str, Any] | None = None,
        **changes: Any,
    ) -> bytes:
        """Log a receipt with an order of its own."""
        told = read_as(KeyBundle, bundle)
        same: dict[str, Any] = {
            "bundle": entry_of(bundle),
            "ctx": octets(f"ctx {number} {attempt}"),
            "number": number,
            "attempt": attempt,
            "rate_card": entry_of(card),
        }
        order = signed(replace(samples.ORDER, **same), "acme")
        value = replace(
            samples.RECEIPT,
            **same,
            order=entry_of(order),
            usage=replace(samples.RECEIPT.usage, **(usage or {})),
            node_sequence=number + 1,
            **changes,
        )
        raw = sign(value, key=signing_key(node), issuer=told.issuer)
        self.orders[entry_of(raw)] = order
        return self.add(raw)

    @property
    def head(self) -> Checkpoint:
        return Checkpoint(ORIGIN, len(self.raws), root_at(len(self.raws), self._lookup()))

    def note(self, witnesses: int = 2) -> str:
        lines = tuple(cosign(signer, self.head, time_s=TIME) for signer in WITNESSES[:witnesses])
        return sign_checkpoint(self.head, [BUNDLE_LOG], time_s=TIME).with_signatures(lines).encode()

    def logged(self, raw: bytes) -> Logged:
        index = self.raws.index(raw)
        path = tuple(inclusion_proof(index, len(self.raws), self._lookup()))
        return Logged(statement=raw, index=index, path=path)

    def part(
        self,
        raw: bytes,
        state: State = State.PAYABLE,
        because: bytes | None = None,
        verdicts: Sequence[bytes] = (),
        sealed: Sequence[SealedLine] = (),
    ) -> ReceiptPart:
        return ReceiptPart(
            **self.logged(raw).model_dump(),
            order=self.orders[entry_of(raw)],
            verdicts=tuple(self.logged(item) for item in verdicts),
            sealed=tuple(sealed),
            state=state,
            because=None if because is None else entry_of(because).hex(),
        )

    def _lookup(self) -> Any:
        return lookup_in([leaf_hash(entry_of(raw)) for raw in self.raws])


def seal_of(lines: Sequence[tuple[bytes, int]], size: int, **changes: Any) -> bytes:
    """Seal a period with these lines: (receipt, net)."""
    count, root = lines_root((entry_of(raw), net) for raw, net in lines)
    value = PeriodSeal(
        tenant="acme",
        operator="gpu-farm",
        currency="EUR",
        start=NOW - DAY,
        end=NOW + DAY,
        time_zone="UTC",
        at=NOW + DAY,
        previous=NO_PERIOD,
        size=size,
        lines=count,
        root=root,
        bill=octets("bill"),
    )
    return signed(replace(value, **changes), "authority")


def line_of(lines: Sequence[tuple[bytes, int]], raw: bytes, seal: int = 0) -> SealedLine:
    """Return the line of a receipt in a seal over these lines."""
    leaves = [leaf_hash(period_line(entry_of(item), net)) for item, net in lines]
    index = next(at for at, (item, _) in enumerate(lines) if item == raw)
    path = tuple(inclusion_proof(index, len(leaves), lookup_in(leaves)))
    return SealedLine(seal=seal, net=lines[index][1], index=index, path=path)  # type: ignore[arg-type]


OUTPUT = (100, 30, 40, 50)
"""Output tokens of the receipts 0 (payable), 1 (refused), 2 (held), 3 (payable, the later attempt)."""


@dataclass
class Case:
    """A log with four requests: one answered well, one convicted, one in dispute, one that was tried twice."""

    ledger: Ledger
    card: bytes
    receipts: list[bytes]
    early: bytes
    """The first attempt of request 3, which ended on the next day."""
    verdicts: dict[int, list[bytes]]
    bill: list[tuple[bytes, int]]
    seal: bytes

    @classmethod
    def made(cls) -> "Case":
        ledger = Ledger([], {})
        ledger.add(KEY_BUNDLE)
        card = ledger.add(signed(CARD, "gpu-farm"))
        early = ledger.receipt(
            3, card=card, usage={"output": 9}, started=NOW + DAY, ended=NOW + DAY + 5
        )
        receipts = [
            ledger.receipt(n, card=card, usage={"output": tokens}, attempt=int(n == 3))
            for n, tokens in enumerate(OUTPUT)
        ]
        first = ledger.add(verdict(receipts[1], "worker-1", Reason.TOKENS))
        second = ledger.add(
            verdict(receipts[1], "worker-2", Reason.TOKENS, confirms=entry_of(first))
        )
        alone = ledger.add(verdict(receipts[2], "worker-1", Reason.USAGE))
        bill = [(receipts[at], 1) for at in (0, 2, 3)]
        seal = ledger.add(seal_of(bill, len(ledger.raws)))
        return cls(ledger, card, receipts, early, {1: [first, second], 2: [alone]}, bill, seal)

    def proof(self, **changes: Any) -> LineProof:
        """Return the honest proof of a line that bills 500 output tokens, with changes."""
        ledger = self.ledger
        states: dict[int, tuple[State, bytes | None]] = {
            1: (State.REFUSED, self.verdicts[1][1]),
            2: (State.HELD, self.verdicts[2][0]),
        }
        billed = {raw for raw, _ in self.bill}
        parts = [
            ledger.part(
                raw,
                states.get(at, (State.PAYABLE, None))[0],
                states.get(at, (State.PAYABLE, None))[1],
                verdicts=self.verdicts.get(at, ()),
                sealed=[line_of(self.bill, raw)] if raw in billed else [],
            )
            for at, raw in enumerate(self.receipts)
        ]
        made: dict[str, Any] = {
            "invoice": Invoice(
                number=7, invoice_id="2026-7", operator="gpu-farm", currency="EUR", sha256="ab" * 32
            ),
            "claims": (
                Claim(
                    line_id="a/1", place="lines[0]", kind=TokenKind.OUTPUT,
                    quantity=500, unit_price="2", per=1000, amount="1.00",
                ),
            ),
            "scope": Scope(
                tenant="acme", node="n1", model_root=MODEL.hex(), start=NOW, end=NOW + DAY,
                first_index=0, end_index=END_INDEX,
            ),
            "log": Log(checkpoint=ledger.note(), policy=PolicyFile.of(policy()).encode()),
            "keys": tuple(public_bytes(signing_key(key)) for key in SIGNERS.values()),
            "key_bundles": (ledger.logged(KEY_BUNDLE),),
            "rate_cards": (ledger.logged(self.card),),
            "receipts": tuple(parts),
            "others": (ledger.part(self.early, State.REFUSED, self.receipts[3]),),
            "seals": (ledger.logged(self.seal),),
            "figures": expected(self.card, 190, "0.08", "1.00"),
        }  # fmt: skip
        return LineProof(**{**made, **changes})


def expected(card: bytes, tokens: int, held: str, billed: str) -> Figures:
    """Return the figures of output tokens at 2 per thousand."""
    proven = Decimal(tokens) * 2 / 1000
    return Figures(
        currency="EUR",
        terms=(
            Term(
                kind=TokenKind.OUTPUT, rate_card=entry_of(card).hex(), quantity=tokens,
                unit_price="2", per=1000, amount=str(proven),
            ),
        ),
        held=held,
        fx_rate="1",
        proven=str(proven),
        billed=billed,
        difference=str(Decimal(billed) - proven),
    )  # fmt: skip


def changed(part: ReceiptPart, **values: Any) -> ReceiptPart:
    """Return a receipt's part with other values, checked anew."""
    return ReceiptPart(**{**part.model_dump(), **values})


def other_order(raw: bytes, **fields: Any) -> bytes:
    """Return an order like this one with other fields, signed by its tenant."""
    return signed(replace(read_as(Order, raw), **fields), "acme")


def other_receipt(raw: bytes, **fields: Any) -> bytes:
    """Return a receipt like this one with other fields, signed by its node."""
    value = replace(read_as(Receipt, raw), **fields)
    return sign(value, key=signing_key("node"), issuer="gpu-farm/n1")
