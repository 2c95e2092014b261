"""Standing computed again from the query API's verdicts, beside what the server says."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from audit_layer.api.schemas import VerdictView
from audit_layer.api.standing_schemas import StandingView
from shared.verification.opinions import Opinion
from shared.verification.standing import Node, Record, record_of

Ask = Callable[..., Any]


def differences(ask: Ask, said: list[dict[str, Any]]) -> list[str]:
    """Return, in words, which of the server's answers its verdicts do not give."""
    records, wrong = records_of(_verdicts(ask)), []
    for row in said:
        theirs = StandingView.model_validate(row)
        node = theirs.operator, theirs.node
        ours = StandingView.of(node, records) if node in records else None
        if ours != theirs:
            told = "has no verdicts" if ours is None else f"is {ours.standing}"
            wrong.append(f"{node[0]}/{node[1]} {told}, the server says {theirs.standing}: {theirs}")
    return wrong


def records_of(views: Iterable[VerdictView]) -> dict[Node, Record]:
    """Return the record of every node that these verdicts are about."""
    opinions: dict[Node, list[Opinion]] = defaultdict(list)
    for view in views:
        opinions[view.operator, view.node].append(_opinion(view))
    return {node: record_of(about) for node, about in opinions.items()}


def _verdicts(ask: Ask) -> Iterator[VerdictView]:
    """Yield all verdicts that the token may see, oldest first."""
    after: int | None = -1
    while after is not None:
        page = ask("/v1/verdicts", after=after, limit=1000, order="asc")
        yield from map(VerdictView.model_validate, page["items"])
        after = page["next"]


def _opinion(view: VerdictView) -> Opinion:
    confirms = None if view.confirms is None else bytes.fromhex(view.confirms)
    return Opinion(
        bytes.fromhex(view.entry),
        view.log_index,
        bytes.fromhex(view.receipt),
        view.worker,
        view.outcome,
        view.reason,
        confirms,
    )
