"""The query API's answer about one receipt's audit."""

from typing import Self

from audit_layer.api.schemas import ReceiptView, VerdictView, View
from audit_layer.costs.reading import Payability
from audit_layer.replay.account import Account, EpochOf, Opinion
from shared.verification.judgement import Check, Judgement


class CheckView(View):
    """One check of a judgement (protocol 6.3.1)."""

    step: int
    """The protocol's step; 0 is the numeric profile."""
    name: str
    reason: str
    """The reason code that it gives when it does not hold."""
    held: bool
    expected: int | str | None
    found: int | str | None
    where: dict[str, int]
    """Places, counted from 0, and in `wrong` how many positions differ."""

    @classmethod
    def of(cls, check: Check) -> Self:
        """Translate a check."""
        found = check.difference
        return cls(
            step=check.step,
            name=check.name,
            reason=check.reason.value,
            held=check.held,
            expected=None if found is None else found.expected,
            found=None if found is None else found.found,
            where={} if found is None else dict(found.where),
        )


class JudgementView(View):
    """What a worker checked and found; `digest` is the SHA-256 that its verdict carries as `evidence`."""

    digest: str
    facts: dict[str, int | str]
    checks: list[CheckView]

    @classmethod
    def of(cls, judgement: Judgement) -> Self:
        """Translate a judgement."""
        return cls(
            digest=judgement.digest.hex(),
            facts=dict(judgement.facts),
            checks=[CheckView.of(check) for check in judgement.checks],
        )


class OpinionView(View):
    """One worker's part in the audit of a receipt."""

    kind: str
    """`primary`, `confirm` for a second opinion, `third` where two disagree; `asked`, `asked-confirm` and `asked-third` likewise
    for what the tenant asked for."""
    worker: str
    asked: str
    """Why it was asked: `draw`, `floor`, `whole`, `tenant` or `confirm`; empty if only its verdict is known."""
    deadline: int
    waits_for: str | None
    """While there is no verdict: what it waits for, if it has tried."""
    verdict: VerdictView | None
    judgement: JudgementView | None

    @classmethod
    def of(cls, opinion: Opinion) -> Self:
        """Translate an opinion."""
        verdict, judgement = opinion.verdict, opinion.judgement
        return cls(
            kind=opinion.kind,
            worker=opinion.worker,
            asked=opinion.asked,
            deadline=opinion.deadline,
            waits_for=opinion.waits_for,
            verdict=None if verdict is None else VerdictView.of(verdict),
            judgement=None if judgement is None else JudgementView.of(judgement),
        )


class EpochView(View):
    """The epoch in which a receipt lies."""

    number: int
    state: str
    """`open`, `sealed` (the draw is being made) or `drawn`."""
    rate_ppm: int
    floor: int
    whole: bool | None
    """Whether every receipt of it is audited; null before the draw."""

    @classmethod
    def of(cls, epoch: EpochOf) -> Self:
        """Translate an epoch."""
        return cls(**{name: getattr(epoch, name) for name in cls.model_fields})


class PayableView(View):
    """What becomes of the receipt's amount (protocol 8.3)."""

    state: str
    """`payable`, `held` until a second worker's verdict, or `refused`."""
    reason: str | None
    because: str | None
    """Entry of the statement that makes it so."""
    amount: str | None = None
    """The exact amount that it comes to; null where it was never rated."""
    currency: str | None = None

    @classmethod
    def of(cls, found: Payability) -> Self:
        """Translate what the books say."""
        standing = found.standing
        return cls(
            state=standing.state.value,
            reason=standing.reason,
            because=None if standing.because is None else standing.because.hex(),
            amount=found.amount,
            currency=found.currency,
        )


class AccountView(View):
    """What the audit did about one receipt."""

    receipt: ReceiptView
    epoch: EpochView | None
    """Null before its epoch is opened."""
    opinions: list[OpinionView]
    payable: PayableView | None
    """Null before the books have processed it."""

    @classmethod
    def of(cls, account: Account, payable: Payability | None) -> Self:
        """Translate an account."""
        return cls(
            receipt=ReceiptView.of(account.receipt),
            epoch=None if account.epoch is None else EpochView.of(account.epoch),
            opinions=[OpinionView.of(opinion) for opinion in account.opinions],
            payable=None if payable is None else PayableView.of(payable),
        )
