"""The audit of one receipt in plain words. Pure: from the query API's account to paragraphs, for terminal and page alike."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from audit_layer.api.account_schemas import AccountView, CheckView, OpinionView
from audit_layer.commands.options import utc
from shared.statements.verdicts import Blame, Outcome, Reason

MILLION: Final = 1_000_000

HOLDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "profile": "the node computes in a numeric profile that this auditor computes too",
        "secret": "the custodians' shares give the secret that opens the sealed request",
        "model": "the receipt is for the model that the request asks for",
        "prompt": "the prompt's tokens are what the tokenizer makes of the request",
        "frames": "every part of the answer opens, in order, and they are the receipt's",
        "final record": "the final record repeats the receipt and the tokens that were sent",
        "delivery": "the final record with the evidence is there",
        "evidence": "the evidence is the receipt's and is about these tokens",
        "replay": "the model can have produced a sequence of these tokens",
        "activations": "the model's states, recomputed bit for bit, are those that the node committed to",
        "tokens": "every output token is the one that the seed and the settings choose",
        "log-probabilities": "the log-probabilities are those of the model",
        "text": "the text that the client was shown is that of the tokens",
        "settings": "the receipt commits to the settings of the request",
        "finish": "the answer ended where its rules or its tenant wanted it to",
        "usage": "the counts are those of the tokens",
        "claims": "what is claimed about times, compute and energy is possible",
    }
)
"""What each check of a judgement establishes, by its name."""

MEANS: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.EXACT: "The answer was recomputed, and every bit of it is as it should be.",
        Reason.ORDER: "The node signed a second receipt for an order that it had answered before.",
        Reason.MODEL: "The node served another model than the request asked for.",
        Reason.INPUT: "The node did not work on the prompt that it was sent.",
        Reason.STREAM: "What the node signed about the answer does not fit together.",
        Reason.EVIDENCE: "The node's evidence is not about the answer that it sent.",
        Reason.SETTINGS: "The node committed to other settings than the request has.",
        Reason.ACTIVATIONS: "The node did not compute with this model, or not in full.",
        Reason.TOKENS: "The node sent tokens that the model, seed and settings do not choose.",
        Reason.LOGPROBS: "The node sent log-probabilities that are not the model's.",
        Reason.TEXT: "The client was shown a text that is not that of the tokens.",
        Reason.FINISH: "The answer does not end where it has to, or for another reason than the receipt says.",
        Reason.USAGE: "The receipt counts other tokens than were computed.",
        Reason.IMPLAUSIBLE: "The receipt claims something that is physically impossible.",
        Reason.PROFILE: "The node computes in a numeric profile that no auditor of this log computes.",
        Reason.WITHHELD: "The node did not hand over what an audit of this request needs, although it was asked in time.",
        Reason.UNAVAILABLE: "The audit could not get what it needs: custodians' shares, or the model. Nobody loses anything by it.",
        Reason.UNREPLAYABLE: "The audit's own process could not judge this request, several times. A person has to look into it.",
        Reason.ESCROW: "The tenant sealed the request so that those who should be able to open it cannot.",
    }
)
"""Each reason code in a sentence."""

PLACES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prompt_block": "block {} of the prompt",
        "output_block": "block {} of the answer",
        "prompt_position": "position {} of the prompt",
        "output_position": "token {} of the answer",
        "frame": "part {} of the answer",
    }
)


FACTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "why": "What the sources answered",
        "answered_by": "The receipt that answered the order first",
        "failures": "Attempts that failed",
        "model_root": "The model that this auditor does not have",
    }
)
"""Facts of a judgement that are worth a line of their own."""


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
            Section("What was found", tuple(_found(decisive))),
            Section("What was checked", tuple(_checked(decisive))),
            Section("How sure that is", tuple(_sure(account))),
        ]
    others = [opinion for opinion in account.opinions if opinion is not decisive]
    if others:
        sections.append(Section("Who else looked", tuple(map(_other, others))))
    sections.append(Section("What follows", tuple(_follows(account))))
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
    if decisive is not None:
        assert decisive.verdict is not None
        reason = _reason(decisive)
        told = f"{decisive.verdict.outcome} ({reason.value})"
        if reason.blame is Blame.NODE:
            told += ", confirmed" if _confirmed(account) else ", not confirmed yet"
        return f"{told}. {MEANS[reason]}"
    if account.opinions:
        return "Drawn, not judged yet."
    epoch = account.epoch
    if epoch is None or epoch.state != "drawn":
        return "Not audited yet: its epoch is still open, so nobody knows whether it will be drawn."
    return "Not audited: its epoch's draw did not select it."


def _request(account: AccountView) -> Iterator[Line]:
    receipt, epoch = account.receipt, account.epoch
    yield Line(
        f"{receipt.operator}/{receipt.node} answered request {receipt.number} of {receipt.tenant}"
        f" (attempt {receipt.attempt}) on {utc(receipt.started)}: {receipt.input_tokens} tokens in,"
        f" {receipt.output_tokens} out, ended by {receipt.finish!r}."
    )
    yield Line(f"Receipt {receipt.entry}, log index {receipt.log_index}.")
    if epoch is None:
        return
    chance = (
        f"{epoch.rate_ppm / MILLION:.2%} of all receipts, and at least {epoch.floor} of every node,"
    )
    if epoch.state != "drawn":
        yield Line(f"It lies in epoch {epoch.number}, of which {chance} will be drawn.")
    elif epoch.whole:
        yield Line(f"It lies in epoch {epoch.number}, which is audited whole.")
    else:
        yield Line(
            f"It lies in epoch {epoch.number}, of which {chance} were drawn by a"
            " seed that nobody knew when it was signed."
        )


def _found(opinion: OpinionView) -> Iterator[Line]:
    judgement = opinion.judgement
    broken = [] if judgement is None else [check for check in judgement.checks if not check.held]
    for check in broken:
        yield Line(f"{_subject(check)}: {_difference(check)}", held=False)
        if check.name == "activations" and check.where:
            yield Line(
                "Nodes commit to the last layer's states only, so the layer in which the computations"
                " part cannot be named."
            )
    if judgement is None:
        yield Line("The worker's judgement is not kept here; the verdict carries its hash.")
        return
    for name, title in FACTS.items():
        if name in judgement.facts:
            yield Line(f"{title}: {judgement.facts[name]}")
    if not broken and _good(opinion):
        facts = judgement.facts
        yield Line(
            f"{facts.get('prompt_tokens', 0)} tokens of prompt and {facts.get('output_tokens', 0)} of answer"
            f" were recomputed; {facts.get('blocks', 0)} blocks of states and every token are equal.",
            held=True,
        )


def _subject(check: CheckView) -> str:
    """Return what was checked, as the beginning of a sentence."""
    text = HOLDS.get(check.name, check.name)
    return f"It does not hold that {text}"


def _difference(check: CheckView) -> str:
    parts = []
    if check.expected is not None:
        parts.append(f"expected {check.expected}")
    if check.found is not None:
        parts.append(f"found {check.found}")
    where = [PLACES[name].format(at) for name, at in check.where.items() if name in PLACES]
    if where:
        parts.append(f"first at {', '.join(where)} (counted from 0)")
    if "wrong" in check.where:
        parts.append(f"{check.where['wrong']} positions differ")
    return "; ".join(parts) or "nothing more is known"


def _checked(opinion: OpinionView) -> Iterator[Line]:
    checks = [] if opinion.judgement is None else opinion.judgement.checks
    for check in checks:
        yield Line(f"({check.step}) {HOLDS.get(check.name, check.name)}", held=check.held)
    if not checks:
        yield Line("Nothing had to be disclosed or replayed for this: it shows in the log itself.")


def _sure(account: AccountView) -> Iterator[Line]:
    decisive = _decisive(account)
    assert decisive is not None
    reason = _reason(decisive)
    if reason.outcome is Outcome.INCONCLUSIVE:
        yield Line("Nothing was recomputed to the end, so this says nothing about the computation.")
    else:
        yield Line(
            "Equality of bits needs no threshold: an honest node cannot fail by chance, and a node that"
            " departs from the definition in one bit of what it commits to cannot pass."
        )
        if reason is not Reason.EXACT:
            yield Line(
                "What remains is a fault of one machine. So a FAIL counts when a second worker, with keys,"
                " a process and a disclosure of its own, finds one too."
            )


def _other(opinion: OpinionView) -> Line:
    kind = {"primary": "first", "confirm": "second", "third": "third"}.get(
        opinion.kind, opinion.kind
    )
    if opinion.verdict is not None:
        verdict = opinion.verdict
        return Line(
            f"{opinion.worker} ({kind} opinion): {verdict.outcome} ({verdict.reason}),"
            f" log index {verdict.log_index}."
        )
    waits = f"; it waits: {opinion.waits_for}" if opinion.waits_for else ""
    return Line(
        f"{opinion.worker} ({kind} opinion) was asked and has until {utc(opinion.deadline)}{waits}."
    )


def _follows(account: AccountView) -> Iterator[Line]:
    decisive, payable = _decisive(account), account.payable
    if payable is None:
        yield Line("The books have not rated the receipt yet.")
    elif payable.state == "payable":
        yield Line("The receipt is payable.")
    elif payable.state == "held":
        yield Line(
            "The receipt's amount is held: neither paid nor refused until another worker's verdict."
        )
    else:
        yield Line(f"The receipt is not payable: {payable.reason}.")
    if decisive is None or _good(decisive) is not False:
        return
    if _confirmed(account):
        yield Line(
            "It counts against the node: see `counterfoil audit standing`. Clients leave a suspended node,"
            " as their policy says."
        )
        return
    waiting = [opinion for opinion in account.opinions if opinion.verdict is None]
    if waiting:
        yield Line(
            f"A second opinion is asked for until {utc(max(o.deadline for o in waiting))}. Until then the node's"
            " operator can hand in evidence: `counterfoil node deposit`."
        )
    elif not any(opinion.kind == "confirm" for opinion in account.opinions):
        yield Line("A second worker will be asked.")
    else:
        yield Line("The second worker did not agree, so it has no consequence for the node.")
