"""Standing computed again from the query API's verdicts, beside what the server says."""

from collections.abc import Iterable
from typing import Any

from audit_layer.api.schemas import VerdictView
from audit_layer.api.standing_schemas import StandingView
from audit_layer.commands.paging import Ask, pages
from shared.verification.opinions import Opinion
from shared.verification.standing import Node, Record, records_of


def differences(ask: Ask, said: list[dict[str, Any]]) -> list[str]:
    """Return, in words, which of the server's answers its verdicts do not give."""
    views = map(VerdictView.model_validate, pages(ask, "/v1/verdicts", -1))
    records, wrong = records_of_views(views), []
    for row in said:
        theirs = StandingView.model_validate(row)
        node = theirs.operator, theirs.node
        ours = StandingView.of(node, records) if node in records else None
        if ours != theirs:
            told = "has no verdicts" if ours is None else f"is {ours.standing}"
            wrong.append(f"{node[0]}/{node[1]} {told}, the server says {theirs.standing}: {theirs}")
    return wrong


def records_of_views(views: Iterable[VerdictView]) -> dict[Node, Record]:
    """Return the record of every node that these verdicts are about."""
    return records_of(((view.operator, view.node), _opinion(view)) for view in views)


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
        view.asked,
    )
