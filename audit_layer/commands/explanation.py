"""The audit of one receipt in plain words. Pure: from the query API's account to paragraphs, for terminal and page alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from audit_layer.api.account_schemas import AccountView, CheckView, OpinionView
from audit_layer.commands.explanation_words import (
    COMPUTED,
    ENDS,
    FACTS,
    HOLDS,
    MEANS,
    NAMES,
    PLACES,
)
from audit_layer.commands.options import utc
from shared.statements.verdicts import Blame, Outcome, Reason

MILLION: Final = 1_000_000

DRAWN_KINDS: Final = frozenset({"primary", "confirm", "third"})
"""Opinions that a lot has asked for."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line; `held` marks a check that held or did not."""

    text: str
    held: bool | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with its lines."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The audit of one receipt: the answer in a sentence, then the sections behind it."""

    headline: str
    good: bool | None
    """Whether the receipt passed (True), is held against its node (False), or neither."""
    sections: tuple[Section, ...]


def explain(account: AccountView) -> Explanation:
    """Put an account in plain words."""
    decisive = _decisive(account)
    sections = [Section("The request", tuple(_request(account)))]
    if decisive is not None:
        sections += [
            Section(f"What auditor {decisive.worker} found", tuple(_found(decisive))),
            Section("What was checked", tuple(_checked(decisive))),
            Section("How sure that is", tuple(_sure(account, decisive))),
        ]
    others = [opinion for opinion in account.opinions if opinion is not decisive]
    if others:
        sections.append(Section("Who else looked", tuple(map(_other, others))))
    sections.append(Section("What follows", tuple(_follows(account, decisive))))
    good = None if decisive is None else _good(decisive)
    return Explanation(_headline(account, decisive), good, tuple(sections))


def _decisive(account: AccountView) -> OpinionView | None:
    """Return the opinion to explain: the first that is held against the node, else the first with a verdict."""
    judged = [opinion for opinion in account.opinions if opinion.verdict is not None]
    against = [opinion for opinion in judged if _reason(opinion).blame is Blame.NODE]
    return next(iter(against or judged), None)


def _reason(opinion: OpinionView) -> Reason:
    assert opinion.verdict is not None
    return Reason(opinion.verdict.reason)


def _good(opinion: OpinionView) -> bool | None:
    reason = _reason(opinion)
    return True if reason is Reason.EXACT else False if reason.blame is Blame.NODE else None


def _confirmed(account: AccountView) -> bool:
    """Return whether a second worker agreed with a verdict against the node."""
    against = [o.verdict for o in account.opinions if o.verdict and _good(o) is False]
    entries = {verdict.entry for verdict in against}
    return any(verdict.confirms in entries for verdict in against)


def _headline(account: AccountView, decisive: OpinionView | None) -> str:
    paid = (
        ""
        if account.payable is None
        else {"refused": "; not payable"}.get(account.payable.state, f"; {account.payable.state}")
    )
    if decisive is not None:
        assert decisive.verdict is not None
        reason = _reason(decisive)
        told = f"{decisive.verdict.outcome} ({reason.value})"
        if reason.blame is Blame.NODE:
            told += (
                ", confirmed by a second auditor" if _confirmed(account) else ", not confirmed yet"
            )
        return f"{told}{paid}. {MEANS[reason]}"
    if account.opinions:
        why = "Selected for an audit" if _drawn(account) else "Audited because its tenant asked"
        return f"{why}, not judged yet{paid}."
    epoch = account.epoch
    if epoch is None or epoch.state != "drawn":
        return (
            f"Not audited yet{paid}: nobody knows until its epoch ends whether it will be selected."
        )
    return f"Not audited{paid}: it was not selected, as most are not. That is not a PASS."


def _drawn(account: AccountView) -> bool:
    """Return whether the lot selected the receipt; its tenant may have asked for an audit besides, or instead."""
    return any(opinion.kind in DRAWN_KINDS for opinion in account.opinions)


def _request(account: AccountView) -> Iterator[Line]:
    receipt, epoch, paid = account.receipt, account.epoch, account.payable
    retry = f" (attempt {receipt.attempt + 1})" if receipt.attempt else ""
    yield Line(
        f"Node {receipt.node} of operator {receipt.operator} answered request {receipt.number} of tenant"
        f" {receipt.tenant}{retry} on {utc(receipt.started)}: {receipt.input_tokens} tokens of prompt,"
        f" {receipt.output_tokens} of answer, {ENDS[receipt.finish]}."
    )
    amount = (
        f" It comes to {paid.amount} {paid.currency}." if paid is not None and paid.amount else ""
    )
    yield Line(f"Its receipt is entry {receipt.log_index} of the log, {receipt.entry}.{amount}")
    if epoch is None:
        return
    chance = (
        f"{epoch.rate_ppm / MILLION:.2%} of all receipts, and at least {epoch.floor} of every node"
    )
    selected = "This one was" if _drawn(account) else "This one was not"
    if epoch.state != "drawn":
        yield Line(
            f"It belongs to epoch {epoch.number}. When that ends, {chance} will be selected by lot."
        )
    elif epoch.whole:
        yield Line(f"It belongs to epoch {epoch.number}, of which every receipt is audited.")
    else:
        yield Line(
            f"It belongs to epoch {epoch.number}, of which {chance}, were selected by a lot that nobody could"
            f" know when the node signed. {selected}."
        )


def _found(opinion: OpinionView) -> Iterator[Line]:
    assert opinion.verdict is not None
    yield Line(
        f"Verdict of {utc(opinion.verdict.at)}, entry {opinion.verdict.log_index} of the log."
    )
    judgement = opinion.judgement
    if judgement is None:
        yield Line("What exactly was checked is not kept here; the verdict carries its hash.")
        return
    for check in judgement.checks:
        if not check.held:
            yield Line(
                f"Not so: {HOLDS.get(check.name, check.name)}.{_difference(check)}", held=False
            )
    for name, title in FACTS.items():
        if name in judgement.facts:
            yield Line(f"{title}: {judgement.facts[name]}")
    if _good(opinion):
        facts = judgement.facts
        yield Line(
            f"{facts.get('prompt_tokens', 0)} tokens of prompt and {facts.get('output_tokens', 0)} of answer"
            " were computed again, and all of them are equal.",
            held=True,
        )


def _difference(check: CheckView) -> str:
    """Return what differs and where, as further sentences."""
    told = ""
    if check.expected is not None and check.found is not None:
        told += f" Expected: {check.expected}; found: {check.found}."
    elif check.found is not None:
        told += f" The reason: {check.found}."
    where = [PLACES[name].format(at) for name, at in check.where.items() if name in PLACES]
    if where:
        told += f" The first difference is in {', '.join(where)} (counted from 0)."
    if "wrong" in check.where:
        told += f" {check.where['wrong']} places differ."
    return told


def _checked(opinion: OpinionView) -> Iterator[Line]:
    checks = [] if opinion.judgement is None else opinion.judgement.checks
    for check in checks:
        yield Line(HOLDS.get(check.name, check.name), held=check.held)
    if not checks:
        yield Line("Nothing had to be opened or computed: it shows in the log itself.")
        return
    made = {check.name for check in checks}
    left = [words for name, words in HOLDS.items() if name not in made]
    if left:
        yield Line(f"Not checked any more, or not needed for this: {'; '.join(left)}.")


def _sure(account: AccountView, decisive: OpinionView) -> Iterator[Line]:
    reason, confirmed = _reason(decisive), _confirmed(account)
    if reason is Reason.EXACT:
        yield Line(
            "Every bit was compared, without a tolerance: a node that cheated in what was checked could not pass."
        )
        yield Line(
            "Times, compute and energy are the node's claims; that they are possible is all that was checked."
        )
        return
    if reason is Reason.WITHHELD:
        yield Line(
            "Certain is only that it was asked for in time and did not come. An outage looks the same as a refusal, so"
            " one case weighs little, and repeated ones suspend a node."
        )
        return
    if reason.outcome is Outcome.INCONCLUSIVE:
        yield Line("The computation was not looked at, so nothing is known about it.")
        return
    if reason in COMPUTED:
        yield Line(
            "The computation was repeated bit for bit, without a tolerance: an honest node cannot fail by chance. Why it"
            " differs (another model, a shortcut, faulty equipment) the audit cannot tell."
        )
    else:
        yield Line(
            "What the node signed was compared exactly; no tolerance or estimate is involved."
        )
    if confirmed:
        yield Line(
            "A second auditor, on another machine with other keys, found the same: the first one's machine is not to blame."
        )
    else:
        yield Line(
            "The auditor's own machine could be at fault. So nothing follows until a second auditor agrees."
        )


def _other(opinion: OpinionView) -> Line:
    kind = NAMES.get(opinion.kind, opinion.kind)
    if opinion.verdict is not None:
        verdict = opinion.verdict
        return Line(
            f"{opinion.worker} ({kind} opinion, {utc(verdict.at)}): {verdict.outcome} ({verdict.reason}),"
            f" entry {verdict.log_index} of the log."
        )
    waits = f" Its last try ended with: {opinion.waits_for}." if opinion.waits_for else ""
    return Line(
        f"{opinion.worker} ({kind} opinion) was asked; evidence is waited for until {utc(opinion.deadline)}.{waits}"
    )


def _follows(account: AccountView, decisive: OpinionView | None) -> Iterator[Line]:
    yield Line(_money(account, decisive))
    if decisive is None:
        if account.opinions:
            yield Line(
                "Nothing has to be done: the verdict is due after the deadline above, at the latest."
            )
        return
    receipt, verdict = account.receipt, decisive.verdict
    assert verdict is not None
    if _good(decisive) is not False:
        yield Line(
            "Nothing has to be done."
            if _good(decisive)
            else "Nothing follows for the node. Whoever runs the audit, or sealed the request, should look into it."
        )
    elif _confirmed(account):
        yield Line(
            "It counts in the node's standing, by which clients choose:"
            f" `counterfoil audit standing --node {receipt.operator}/{receipt.node}`."
        )
        yield Line(
            f"Proof for a dispute: `counterfoil log bundle {verdict.entry[:16]} --out FILE`, which anybody can verify offline."
        )
    else:
        yield Line(_pending(account))


def _money(account: AccountView, decisive: OpinionView | None) -> str:
    payable = account.payable
    if payable is None:
        return "The books have not processed the receipt yet."
    if payable.state == "payable":
        if decisive is None:
            return "It is payable: receipts that were not selected are."
        return "It is payable." if _good(decisive) else "It is payable: the node is not at fault."
    if payable.state == "held":
        return "Its amount is held: neither paid nor refused, until another auditor's verdict."
    told = f"It is not payable: {payable.reason}."
    if decisive is not None and _reason(decisive) is Reason.WITHHELD:
        told += " Handing over evidence is part of what is paid for."
    return told


def _pending(account: AccountView) -> str:
    """Return what a verdict against the node waits for."""
    waiting = [opinion for opinion in account.opinions if opinion.verdict is None]
    if waiting:
        until = utc(max(opinion.deadline for opinion in waiting))
        return (
            f"Wait for the next opinion; evidence is waited for until {until}, and until then the operator can hand it"
            " in with `counterfoil node deposit`. If it agrees, the receipt is not payable; if not, a third auditor"
            " decides, and without one it stays as it is."
        )
    if not any(opinion.kind == "confirm" for opinion in account.opinions):
        return "A second auditor will be asked, if there is one."
    return "The second auditor did not agree, so it has no consequence for the node unless a third one does."
