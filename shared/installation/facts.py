"""The facts of a demonstration: what one run collected, and what must hold of it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from shared.installation.audit_view import AuditView
from shared.installation.cheat import Cheat
from shared.installation.layout import NodePlan, Plan

KINDS: Final = ("input", "cached", "output")
Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fact:
    """One claim of the demonstration."""

    promise: str
    holds: bool
    found: str
    """What was observed, and where to look if the claim does not hold."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one demonstration collected."""

    plan: Plan
    cheat: Cheat
    answers: Sequence[Item]
    refusals: Sequence[Item]
    """What the client said of answers that it refused, each with the node's name; an honest node was asked instead."""
    prompts: int
    proofs: Item
    view: AuditView
    costs: Item
    status: Mapping[str, Item]
    """What each node that is not the ordinary program says of itself (`counterfoil node status`)."""
    log: Item
    deaths: Sequence[str]
    seconds: Mapping[str, float]
    addresses: Mapping[str, str]
    faults: Sequence[Fact] = ()
    """What holds of the faults that were caused on purpose."""

    @property
    def cheating(self) -> frozenset[str]:
        """The nodes that are not the ordinary program."""
        return frozenset(node.name for node in self.plan.nodes if node.wrapper)

    @property
    def refused_by_clients(self) -> frozenset[str]:
        """The nodes whose answers the client refused."""
        return frozenset(item["node"] for item in self.refusals)

    @property
    def refused_by_log(self) -> frozenset[str]:
        """The nodes whose key bundle the log does not take: nobody sends them anything."""
        return frozenset(
            name for name, told in self.status.items() if told.get("bundle_witnessed") is False
        )

    @property
    def named(self) -> frozenset[str]:
        """The nodes that somebody says cheat: two auditors that agree, the client, or the log."""
        return self.view.named() | self.refused_by_clients | self.refused_by_log

    def to_json(self, facts: Sequence[Fact]) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "facts": [{"promise": f.promise, "holds": f.holds, "found": f.found} for f in facts],
            "seconds": dict(self.seconds),
            "nodes": {name: dict(count) for name, count in self.view.by_node().items()},
            "named": sorted(self.named),
            "refusals": [dict(item) for item in self.refusals],
            "reconciled": self.costs["reconciled"],
            "deaths": list(self.deaths),
        }


def facts_of(report: Report) -> list[Fact]:
    """Return the demonstration's facts, each with whether it holds."""
    view = report.view
    checked = sum(bool(answer.get("checked")) for answer in report.answers)
    wrong = [
        verdict
        for verdict in view.verdicts
        if verdict["outcome"] == "FAIL" and verdict["node"] not in report.cheating
    ]
    missing = int(report.proofs.get("missing", 0))
    fsck = report.log["fsck"]
    logs = report.plan.path("logs")
    return [
        Fact(
            "every prompt was answered, and its receipt checked by the client before it was believed",
            checked == report.prompts > 0 and report.refused_by_clients <= report.cheating,
            f"{checked} of {report.prompts}{_asked_again(report)}{_unanswered(report)}; see {logs}",
        ),
        Fact(
            "every receipt is in the log under a witnessed checkpoint, proved to the client",
            missing == 0 and len(view.receipts) >= report.prompts,
            f"{len(view.receipts)} receipts, {missing} without proof",
        ),
        Fact(
            "every receipt's epoch was drawn by the beacon, and every drawn receipt was judged",
            view.complete and bool(view.drawn),
            f"{view.covered} of {len(view.receipts)} covered, {len(view.judged)} of {len(view.drawn)} judged; "
            f"see {logs / 'worker-a.log'}",
        ),
        Fact(
            "no honest node has a FAIL",
            not wrong,
            f"{len(wrong)} FAIL against honest nodes",
        ),
        _naming(report),
        *_cost_facts(report),
        Fact(
            "the log is whole: fsck recomputed every entry, tile, checkpoint and column",
            isinstance(fsck, dict) and not fsck.get("findings") and "error" not in fsck,
            str(fsck)[:300]
            if isinstance(fsck, dict) and (fsck.get("findings") or "error" in fsck)
            else "clean",
        ),
        *report.faults,
    ]


def _asked_again(report: Report) -> str:
    count = len(report.refusals)
    return f", {count} of them by another node after a refused answer" if count else ""


def _unanswered(report: Report) -> str:
    """Say why the first of those that have no answer has none."""
    for answer in report.answers:
        if not answer.get("checked"):
            return f"; {answer.get('error')} from {answer.get('node') or 'no node'}: {answer.get('detail')}"
    return ""


def _naming(report: Report) -> Fact:
    """Say who is named and by whom. A node that seldom cheats may get through one run; that is told, and is no failure."""
    cheating = " and ".join(sorted(report.cheating))
    missed = not report.named and bool(report.cheat.seldom)
    named = "nobody else is named" if missed else "it is named, and nobody else is"
    return Fact(
        f"{cheating} {report.cheat.does}: {named}",
        report.named == report.cheating or missed,
        "; ".join(_who(report)) or _unnamed(report),
    )


def _who(report: Report) -> list[str]:
    """Return, for each way of being named, the nodes and why."""
    view, told = report.view, []
    for node in sorted(view.named()):
        caught = [v for v in view.verdicts if v["receipt"] in view.confirmed and v["node"] == node]
        reasons = sorted({f"{verdict['outcome']} {verdict['reason']}" for verdict in caught})
        count = len({verdict["receipt"] for verdict in caught})
        told.append(f"{node} by two auditors that agree on {count} answers: {', '.join(reasons)}")
    for node in sorted(report.refused_by_clients):
        said = [item["detail"] for item in report.refusals if item["node"] == node]
        told.append(
            f"{node} by the client, which refuses {len(said)} of its answers: {said[0].partition(' (')[0]}"
        )
    told += [
        f"{node} by the log, which does not take its key bundle: no client sends it anything"
        for node in sorted(report.refused_by_log)
    ]
    return told


def _unnamed(report: Report) -> str:
    if not report.cheat.seldom:
        return "nobody is named"
    nodes: Mapping[str, Mapping[str, int]] = report.view.by_node()
    counts = [nodes.get(node, {}) for node in report.cheating]
    audited, answers = (
        sum(count.get(what, 0) for count in counts) for what in ("drawn", "receipts")
    )
    return (
        f"nobody, this time: {report.cheat.seldom}, and {audited} of {answers} answers were audited"
    )


def _cost_facts(report: Report) -> list[Fact]:
    rows = []
    for operator, nodes in report.plan.operators.items():
        if operator not in report.costs["claims"]:
            rows += [_no_invoice(report, node) for node in nodes]
            continue
        variance = _Variance.of(report, operator)
        if len(nodes) > 1 or not nodes[0].wrapper:
            rows.append(_honest(report, operator, nodes, variance))
            continue
        rows += _caught(report, nodes[0], variance)
        rows.append(_overclaim(report, nodes[0], variance))
    focus = report.costs["focus"]
    rows.append(
        Fact(
            "a FOCUS export was written",
            focus["rows"] > 0,
            f"{focus['rows']} rows in {focus['file']}",
        )
    )
    return rows


def _honest(
    report: Report, operator: str, nodes: Sequence[NodePlan], variance: "_Variance"
) -> Fact:
    """Return what is said of an invoice that bills every receipt of its operator's nodes, and nothing else.

    Of a receipt whose node died, and whose client went elsewhere meanwhile, it cannot know that the later attempt supersedes
    it; nor of one of a chain, that another place of it was convicted.
    """
    names = {node.name for node in nodes}
    superseded = [r for r in report.view.superseded if r["node"] in names]
    unpaid = [r for r in report.view.unpaid(_chained(report.plan)) if r["node"] in names]
    tokens = {kind: sum(r[f"{kind}_tokens"] for r in (*superseded, *unpaid)) for kind in KINDS}
    tokens["input"] -= tokens["cached"]
    besides = [
        "answers that another node gave after this one had died" if superseded else "",
        "its parts of answers that a place of its chain has falsified" if unpaid else "",
    ]
    whose = ", and ".join(
        [f"{operator}'s invoice: no variance but rounding", *(what for what in besides if what)]
    )
    if not superseded and not unpaid:
        return Fact(whose, variance.exact and not any(variance.beyond.values()), variance.told)
    counts = ", ".join(
        f"{len(found)} {what}"
        for found, what in ((superseded, "superseded"), (unpaid, "of false chains"))
        if found
    )
    return Fact(
        whose,
        variance.exact and variance.beyond == variance.refused == tokens,
        f"{variance.told}; {counts}, {variance.unproven} {variance.currency} not payable",
    )


def _chained(plan: Plan) -> frozenset[str]:
    """Return the nodes that are places of chains."""
    heads = {node.head for node in plan.nodes if node.head is not None}
    return frozenset(node.name for node in plan.nodes if node.head or node.name in heads)


@dataclass(frozen=True, slots=True)
class _Variance:
    """An invoice against what is payable, in tokens by kind and in money."""

    over: Mapping[str, int]
    """What the invoice claims beyond the node's own meter."""
    beyond: Mapping[str, int]
    """What it bills beyond the payable, as the reconciliation found."""
    refused: Mapping[str, int]
    """Of that, tokens of receipts that are in the log and not payable."""
    quantity: Decimal
    unproven: Decimal
    accounted: bool
    """Whether the amounts are those of the tokens, and nothing else differs."""
    exact: bool
    """Whether, besides, what is not refused is the overclaim, to the token and the cent."""
    currency: str

    @classmethod
    def of(cls, report: Report, operator: str) -> "_Variance":
        """Compare what a reconciliation found with what invoice and meter say."""
        result = report.costs["reconciled"][operator]
        claimed, metered = (
            _tokens(report.costs[source][operator]) for source in ("claims", "meters")
        )
        over = {kind: claimed[kind] - metered[kind] for kind in KINDS}
        beyond, refused = (counted(result, what) for what in ("tokens", "refused"))
        parts = {
            name: Decimal(value) for name, value in result["parts"].items() if name != "rounding"
        }
        quantity, unproven = parts.pop("quantity"), parts.pop("unproven")
        accounted = not any(parts.values()) and _is_value(
            quantity + unproven, report, operator, beyond
        )
        exact = (
            accounted
            and over == {kind: beyond[kind] - refused[kind] for kind in KINDS}
            and _is_value(quantity, report, operator, over)
        )
        return cls(over, beyond, refused, quantity, unproven, accounted, exact, result["currency"])

    @property
    def told(self) -> str:
        """The overclaim, for people."""
        count = sum(self.beyond.values()) - sum(self.refused.values())
        return f"{count} tokens, {self.quantity} {self.currency} over"


def _no_invoice(report: Report, node: NodePlan) -> Fact:
    """Return what is said where a node cannot bill: no honest node is left so, and what nobody bills is not payable."""
    answers = [r["output_tokens"] for r in report.view.receipts if r["node"] == node.name]
    why = "no answer of its node has a token" if answers else "nobody sent its node a request"
    if any(answers):
        why = "its rate card has no price for what its node served"
    payable = [row for row in report.costs["payable"] if row["operator"] == node.operator]
    return Fact(
        f"{node.operator} has nothing to bill: {why}",
        bool(node.wrapper) and not any(Decimal(row["amount"]) for row in payable),
        f"{len(answers)} receipts",
    )


def _overclaim(report: Report, node: NodePlan, variance: _Variance) -> Fact:
    """Return what is said of a dishonest operator's invoice, which claims more than its node's own meter."""
    whose = f"{node.operator}'s invoice"
    status = report.status.get(node.name, {})
    more = [variance.beyond[kind] - variance.over[kind] - variance.refused[kind] for kind in KINDS]
    undelivered = status.get("receipts", 0) > status.get("delivered", 0)
    if undelivered or any(
        more
    ):  # receipts that the log does not take, or that are not payable in themselves
        return Fact(
            f"{whose}: what no payable receipt in the log supports is found to the last token and cent",
            variance.accounted and min(more) >= 0 and any(variance.beyond.values()),
            f"{sum(variance.beyond.values())} tokens, "
            f"{variance.quantity + variance.unproven} {variance.currency} over",
        )
    what = "the overclaim" if any(variance.over.values()) else "what is not payable of it"
    return Fact(
        f"{whose}: {what} is found to the last token and cent",
        variance.exact and any(variance.beyond.values()),
        variance.told,
    )


def _caught(report: Report, node: NodePlan, variance: _Variance) -> list[Fact]:
    """Compare what is not payable with what two auditors agree on in this run, if that is anything."""
    caught = [
        receipt["output_tokens"]
        for receipt in report.view.receipts
        if receipt["node"] == node.name and receipt["entry"] in report.view.confirmed
    ]
    if not caught:
        return []
    beyond = variance.beyond
    return [
        Fact(
            f"nothing is payable of what {node.name} was caught at",
            beyond["output"] >= sum(caught) and any(beyond.values()),
            f"{variance.quantity + variance.unproven} {variance.currency} of its invoice are not payable, for"
            f" {beyond['output']} output tokens; it was caught at {sum(caught)} of them in this run",
        )
    ]


def counted(result: Mapping[str, Any], what: str) -> dict[str, int]:
    """Sum by kind what a reconciliation counts over all keys."""
    return {kind: sum(key[what].get(kind, 0) for key in result["keys"]) for kind in KINDS}


def _tokens(invoice: Mapping[str, Any]) -> dict[str, int]:
    return {
        kind: sum(line["quantity"] for line in invoice["lines"] if line["kind"] == kind)
        for kind in KINDS
    }


def _is_value(amount: Decimal, report: Report, operator: str, tokens: Mapping[str, int]) -> bool:
    """Whether tokens cost this at the operator's own metered prices. Where its nodes have several, a token has no one price:
    then nothing may cost nothing, and what costs something lies between the least and the most.
    """
    prices: dict[str, list[Decimal]] = {kind: [] for kind in KINDS}
    for line in report.costs["meters"][operator]["lines"]:
        prices[line["kind"]].append(Decimal(line["unit_price"]) / line["per"])
    counted = {kind: count for kind, count in tokens.items() if count}
    least, most = (
        sum((count * pick(prices[kind]) for kind, count in counted.items()), Decimal(0))
        for pick in (min, max)
    )
    return min(least, most) <= amount <= max(least, most)
