"""What is signed in a proof of a line, and where it is in the log: the steps before anything is concluded. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from shared.codec.moment import to_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cancellations import verify_cancellation
from shared.statements.cose import SignedStatement, open_as, verify_signature
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.periods import PeriodSeal
from shared.statements.ratecards import RateCard
from shared.statements.receipts import Receipt
from shared.statements.refusals import open_refusal
from shared.statements.verdicts import Verdict
from shared.translog.policy import Witnessed
from shared.translog.proofs import verify_inclusion
from shared.translog.tree import leaf_hash
from shared.verification.bundle_check import key_bundle_of, ordered, receipt_of
from shared.verification.line_figures import Known
from shared.verification.line_proof_file import LineProof, Logged, ReceiptPart
from shared.verification.opinions import Opinion
from shared.verification.trust import Role, Trust

_MAX_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Signed:
    """A receipt whose signature and place in the log are verified."""

    part: ReceiptPart
    receipt: Receipt
    entry: bytes
    bundle: KeyBundle
    own: bool
    """Whether the file has it behind the line, and not among the others."""


class Statements:
    """Opens the statements of a proof; each method is a step, and relies on those above it."""

    def __init__(self, proof: LineProof, trust: Trust, head: Witnessed) -> None:
        self._proof = proof
        self._trust = trust
        self._head = head
        self._bundles: dict[bytes, KeyBundle] = {}
        self._cards: dict[bytes, tuple[int, RateCard]] = {}
        self._ordered: dict[bytes, Order] = {}
        self._opinions: dict[bytes, list[Opinion]] = {}
        self._refused: dict[bytes, bytes] = {}
        self.receipts: list[Signed] = []
        """In the file's order: those behind the line first."""
        self.seals: list[PeriodSeal] = []

    def open_key_bundles(self) -> str:
        """Check the key bundles."""
        for part in self._proof.key_bundles:
            with about("a key bundle"):
                (value, entry), _ = key_bundle_of(part.statement, self._trust, self._proof.keys)
                self._placed(part, entry)
            self._bundles[entry] = value
        return ", ".join(sorted({value.issuer for value in self._bundles.values()}))

    def open_rate_cards(self) -> str:
        """Check the rate cards."""
        for part in self._proof.rate_cards:
            with about("a rate card"):
                card, statement = open_as(RateCard, part.statement, None)
                self._verify(statement, Role.OPERATOR, card.operator)
                self._placed(part, statement.entry)
            self._cards[statement.entry] = (part.index, card)
        return ", ".join(f"{card.name} of {card.operator}" for _, card in self._cards.values())

    def open_receipts(self) -> str:
        """Check the receipts: none of them twice."""
        own, others = self._proof.receipts, self._proof.others
        for parts in (own, others):
            for one, other in pairwise(parts):
                require(one.index < other.index, f"index {other.index} does not follow {one.index}")
        for at, part in enumerate((*own, *others)):
            with about(f"the receipt at index {part.index}"):
                self.receipts.append(self._receipt(part, own=at < len(own)))
        entries = Counter(item.entry for item in self.receipts)
        require(max(entries.values(), default=1) == 1, "a receipt is there twice")
        return f"{len(own)} behind the line, {len(others)} others of the same requests"

    def open_orders(self) -> str:
        """Check orders, cancellations and refusals."""
        tenants = set()
        for item in self.receipts:
            receipt = item.receipt
            with about(f"the receipt at index {item.part.index}"):
                (order, key), whose = ordered(
                    item.part.order, receipt, item.bundle, self._trust, self._proof.keys
                )
                if receipt.cancel is not None:
                    verify_cancellation(receipt.order, receipt.cancel, key)
                if item.part.refusal is not None:
                    _, signed = open_refusal(
                        item.part.refusal.statement, item.bundle, order, receipt.order
                    )
                    self._placed(item.part.refusal, signed.entry)
                    self._refused[item.entry] = signed.entry
            self._ordered[item.entry] = order
            tenants.add(whose.partition(", number")[0])
        return "; ".join(sorted(tenants)[:_MAX_SHOWN])

    def open_verdicts(self) -> str:
        """Check the verdicts."""
        seen: set[bytes] = set()
        for item in self.receipts:
            opinions = self._opinions.setdefault(item.entry, [])
            for part in item.part.verdicts:
                with about(f"a verdict about the receipt at index {item.part.index}"):
                    verdict, statement = open_as(Verdict, part.statement, None)
                    self._verify(statement, Role.WORKER, verdict.worker)
                    self._placed(part, statement.entry)
                    require(verdict.receipt == item.entry, "it is about another receipt")
                    require(statement.entry not in seen, "it is there twice")
                seen.add(statement.entry)
                opinions.append(
                    Opinion(
                        entry=statement.entry,
                        log_index=part.index,
                        receipt=item.entry,
                        worker=verdict.worker,
                        outcome=verdict.outcome,
                        reason=verdict.reason,
                        confirms=verdict.confirms,
                    )
                )
        return f"{len(seen)} verdicts"

    def open_seals(self) -> str:
        """Check the seals of billing periods."""
        for part in self._proof.seals:
            with about("a period seal"):
                seal, statement = open_as(PeriodSeal, part.statement, None)
                self._verify(statement, Role.AUTHORITY, statement.issuer)
                self._placed(part, statement.entry)
            self.seals.append(seal)
        return "; ".join(
            f"{seal.tenant} with {seal.operator}, {to_rfc3339(seal.start)} to {to_rfc3339(seal.end)}"
            for seal in self.seals[:_MAX_SHOWN]
        )

    def known(self) -> dict[bytes, Known]:
        """Return what the rule needs of every receipt, by entry, once all steps have passed."""
        found = {}
        for item in self.receipts:
            index, card = self._cards.get(item.receipt.rate_card, (item.part.index, None))
            found[item.entry] = Known(
                entry=item.entry,
                index=item.part.index,
                receipt=item.receipt,
                order=self._ordered[item.entry],
                operator=item.bundle.operator,
                card=card if index < item.part.index else None,
                opinions=self._opinions[item.entry],
                refused=self._refused.get(item.entry),
            )
        return found

    def _receipt(self, part: ReceiptPart, *, own: bool) -> Signed:
        named = open_as(Receipt, part.statement, None)[0].bundle
        bundle = self._bundles.get(named)
        if bundle is None:
            raise CounterfoilError(Code.COMMITMENT_MISMATCH, "its key bundle is not in the file")
        statement, _ = receipt_of(part.statement, bundle, named)
        self._placed(part, statement.entry)
        return Signed(part, statement.read(Receipt), statement.entry, bundle, own)

    def _verify(self, statement: SignedStatement, role: Role, name: str) -> None:
        key, _ = self._trust.key(role, statement.kid, name, self._proof.keys)
        verify_signature(statement, key)

    def _placed(self, part: Logged, entry: bytes) -> None:
        head = self._head.checkpoint
        verify_inclusion(leaf_hash(entry), part.index, head.size, part.path, head.root)


@contextmanager
def about(what: str) -> Iterator[None]:
    """Say of an error what it is about."""
    try:
        yield
    except CounterfoilError as error:
        raise CounterfoilError(error.code, f"{what}: {error.detail}") from error


def require(holds: bool, problem: str) -> None:
    """Raise COMMITMENT_MISMATCH unless something holds."""
    if not holds:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, problem)


def names_of(items: Sequence[Signed]) -> str:
    """Return where receipts are in the log, the first few of them."""
    shown = [str(item.part.index) for item in items[:_MAX_SHOWN]]
    more = len(items) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
