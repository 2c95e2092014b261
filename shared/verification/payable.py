"""What is payable: protocol §8 as one function of receipts, refusals and verdicts. Pure.

The order of arrival makes no difference; only log indexes do.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared.statements.receipts import Finish
from shared.verification.chain_claims import Link, fault
from shared.verification.opinions import Opinion, confirmation, disputed

ANSWERED: Final = "the order was answered before"
ORDER_REFUSED: Final = "its node had refused the order"
SUPERSEDED: Final = "superseded by another attempt"
UNLISTED: Final = "no payable receipt of its chain's head lists it"
CHAIN_UNPAID: Final = "its chain is not payable"
COMPLETE: Final = frozenset({Finish.STOP.value, Finish.LENGTH.value})
UNCONFIRMED: Final = "FAIL that no second worker has confirmed"


class State(StrEnum):
    """What becomes of a receipt's amount."""

    PAYABLE = "payable"
    HELD = "held"
    """Neither paid nor refused until another worker's verdict."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Claim:
    """A receipt as far as the rule needs it."""

    receipt: bytes
    log_index: int
    order: bytes
    tenant: str
    number: int
    attempt: int
    complete: bool = True
    """Whether the answer ended by its own rules (`stop`, `length`), as far as the receipt says."""
    unbillable: str | None = None
    """Why it is not payable in itself, whatever others say: it failed, it has no price, it exceeds its order."""
    refused: bytes | None = None
    """Entry of the refusal of its order, if the log has one."""
    link: Link | None = None
    """Its place in a chain of nodes; None if it is of none."""

    @property
    def is_part(self) -> bool:
        """Whether its order is for a part of a chain's answer."""
        return self.link is not None and self.link.head is not None

    @property
    def rank(self) -> tuple[bool, int]:
        """Among the attempts of one request, those of the highest rank supersede the others."""
        return self.complete, self.attempt


@dataclass(frozen=True, slots=True)
class Standing:
    """What the rule says about one receipt, why, and the statement behind it."""

    state: State
    reason: str | None = None
    because: bytes | None = None


PAYABLE: Final = Standing(State.PAYABLE)


def standings(claims: Iterable[Claim], opinions: Iterable[Opinion]) -> dict[bytes, Standing]:
    """Return the standing of every claim; all claims of a request (tenant, number) must be among them."""
    requests: dict[tuple[str, int], list[Claim]] = defaultdict(list)
    for claim in claims:
        requests[claim.tenant, claim.number].append(claim)
    about: dict[bytes, list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        about[opinion.receipt].append(opinion)
    found: dict[bytes, Standing] = {}
    for request in requests.values():
        found |= _of_request(sorted(request, key=lambda claim: claim.log_index), about)
    return found


def _of_request(
    claims: Sequence[Claim], about: Mapping[bytes, Sequence[Opinion]]
) -> dict[bytes, Standing]:
    """Apply the steps of §8 to the claims of one request, in order of log index."""
    found: dict[bytes, Standing] = {}
    first: dict[bytes, bytes] = {}
    for claim in claims:
        refused = _by_itself(claim, first, about.get(claim.receipt, ()))
        if refused is not None:
            found[claim.receipt] = refused
    known = {claim.receipt: claim for claim in claims}
    chains = {claim.receipt: _stages(claim, known) for claim in claims if not claim.is_part}
    broken = {
        head: refused
        for head, stages in chains.items()
        if head not in found and (refused := _broken(known[head], stages, known, found))
    }
    found |= broken  # (6)
    able = [known[head] for head in chains if head not in found]
    last = max(able, key=lambda claim: (*claim.rank, -claim.log_index), default=None)
    for claim in able:
        if last is not None and claim.rank < last.rank:  # (4)
            found[claim.receipt] = Standing(State.REFUSED, SUPERSEDED, last.receipt)
        else:  # (5)
            chain = (claim, *chains[claim.receipt])
            held = (_disputed(about.get(each.receipt, ())) for each in chain)
            found[claim.receipt] = next((one for one in held if one is not None), PAYABLE)
    for head, stages in chains.items():  # (6)
        for stage in stages:
            found.setdefault(stage.receipt, _with_its_head(head, found[head]))
    for claim in claims:
        found.setdefault(claim.receipt, Standing(State.REFUSED, UNLISTED))
    return found


def _stages(head: Claim, known: Mapping[bytes, Claim]) -> tuple[Claim, ...]:
    """Return the receipts of its stages that a head lists and the log has, as far as they answer its order's parts."""
    listed = () if head.link is None else head.link.stages
    stages = (known[entry] for entry in listed if entry in known)
    return tuple(each for each in stages if each.link is not None and each.link.head == head.order)


def _broken(
    head: Claim,
    stages: Sequence[Claim],
    known: Mapping[bytes, Claim],
    found: Mapping[bytes, Standing],
) -> Standing | None:
    """Return why a chain is paid to none of its nodes, whatever else; None if nothing is wrong with it."""
    if head.link is None:
        return None
    for stage in stages:
        if (refused := found.get(stage.receipt)) is not None:
            reason = f"a receipt of its chain is not payable: {refused.reason}"
            return Standing(State.REFUSED, reason, refused.because or stage.receipt)
    wrong = fault(head, known)
    return None if wrong is None else Standing(State.REFUSED, *wrong)


def _with_its_head(head: bytes, standing: Standing) -> Standing:
    """Return the standing of a stage's receipt, given the receipt of the head that lists it and that one's standing."""
    if standing.state is not State.REFUSED:
        return standing
    reason = f"{CHAIN_UNPAID}: {standing.reason}"
    return Standing(State.REFUSED, reason, standing.because or head)


def _by_itself(
    claim: Claim, first: dict[bytes, bytes], opinions: Sequence[Opinion]
) -> Standing | None:
    """Return why a claim is not payable in itself; None when it is."""
    answer = first.setdefault(claim.order, claim.receipt)
    if answer != claim.receipt:  # (1)
        return Standing(State.REFUSED, ANSWERED, answer)
    if claim.unbillable is not None:  # (2)
        return Standing(State.REFUSED, claim.unbillable)
    if claim.refused is not None:
        return Standing(State.REFUSED, ORDER_REFUSED, claim.refused)
    confirming = confirmation(opinions)
    if confirming is not None:  # (3)
        reason = f"confirmed {confirming.outcome}: {confirming.reason}"
        return Standing(State.REFUSED, reason, confirming.entry)
    return None


def _disputed(opinions: Sequence[Opinion]) -> Standing | None:
    """Return a hold if a FAIL holds the claim up: one that no other worker has contradicted with a PASS."""
    fail = disputed(opinions)
    if fail is None:
        return None
    return Standing(State.HELD, f"{UNCONFIRMED}: {fail.reason}", fail.entry)
