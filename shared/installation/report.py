"""The demonstration's report: facts that must hold, and a summary for people. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from shared.installation.audit_view import AuditView
from shared.installation.layout import Plan
from shared.runtime.printable import command_line

KINDS = ("input", "cached", "output")


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
    answers: Sequence[Mapping[str, Any]]
    prompts: int
    proofs: Mapping[str, Any]
    view: AuditView
    costs: Mapping[str, Any]
    log: Mapping[str, Any]
    deaths: Sequence[str]
    seconds: Mapping[str, float]
    addresses: Mapping[str, str]

    def to_json(self, facts: Sequence[Fact]) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "facts": [{"promise": f.promise, "holds": f.holds, "found": f.found} for f in facts],
            "seconds": dict(self.seconds),
            "nodes": {name: dict(count) for name, count in self.view.by_node().items()},
            "named": sorted(self.view.named()),
            "reconciled": self.costs["reconciled"],
            "deaths": list(self.deaths),
        }


def facts_of(report: Report) -> list[Fact]:
    """Return the demonstration's facts, each with whether it holds."""
    view = report.view
    checked = sum(bool(answer.get("checked")) for answer in report.answers)
    honest = {node.name for node in report.plan.nodes if not node.wrapper}
    cheating = {node.name for node in report.plan.nodes if node.wrapper}
    wrong = [v for v in view.verdicts if v["outcome"] == "FAIL" and v["node"] in honest]
    missing = int(report.proofs.get("missing", 0))
    fsck = report.log["fsck"]
    logs = report.plan.path("logs")
    return [
        Fact(
            "every prompt was answered, and its receipt checked by the client before it was believed",
            checked == report.prompts > 0,
            f"{checked} of {report.prompts}; see {logs}",
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
        Fact(
            "the node that runs other weights is named, by two workers that agree",
            view.named() == cheating,
            f"named: {', '.join(sorted(view.named())) or 'nobody'}",
        ),
        *_cost_facts(report),
        Fact(
            "the log is whole: fsck recomputed every entry, tile, checkpoint and column",
            isinstance(fsck, dict) and not fsck.get("findings") and "error" not in fsck,
            str(fsck)[:300]
            if isinstance(fsck, dict) and (fsck.get("findings") or "error" in fsck)
            else "clean",
        ),
    ]


def _cost_facts(report: Report) -> list[Fact]:
    rows = []
    for node in report.plan.nodes:
        result = report.costs["reconciled"][node.operator]
        claimed, metered = (
            _tokens(report.costs[source][node.operator]) for source in ("claims", "meters")
        )
        over = {kind: claimed[kind] - metered[kind] for kind in KINDS}
        refused = _counted(result, "refused")
        found = {kind: count - refused[kind] for kind, count in _counted(result, "tokens").items()}
        parts = {
            name: Decimal(value) for name, value in result["parts"].items() if name != "rounding"
        }
        quantity, unproven = parts.pop("quantity"), parts.pop("unproven")
        exact = (
            over == found
            and quantity == _value(report, node.operator, over)
            and unproven == _value(report, node.operator, refused)
            and not any(parts.values())
        )
        if node.wrapper:
            rows.append(_caught(report, node.name, refused, f"{unproven} {result['currency']}"))
        rows.append(
            Fact(
                f"{node.operator}'s invoice: "
                + (
                    "the overclaim is found to the last token and cent"
                    if node.wrapper
                    else "no variance but rounding"
                ),
                exact
                and bool(any(over.values())) == bool(node.wrapper)
                and bool(any(refused.values())) <= bool(node.wrapper),
                f"{sum(found.values())} tokens, {quantity} {result['currency']} over",
            )
        )
    focus = report.costs["focus"]
    rows.append(
        Fact(
            "a FOCUS export was written",
            focus["rows"] > 0,
            f"{focus['rows']} rows in {focus['file']}",
        )
    )
    return rows


def _caught(report: Report, node: str, refused: Mapping[str, int], amount: str) -> Fact:
    """Compare what is not payable with what two workers failed in this run."""
    wrong = sum(
        receipt["output_tokens"]
        for receipt in report.view.receipts
        if receipt["node"] == node and receipt["entry"] in report.view.confirmed
    )
    return Fact(
        f"nothing is payable of what {node} was caught at",
        refused["output"] >= wrong > 0,
        f"{amount} refused for {refused['output']} output tokens, {wrong} of them in this run",
    )


def _counted(result: Mapping[str, Any], what: str) -> dict[str, int]:
    """Sum by kind what a reconciliation counts over all keys."""
    return {kind: sum(key[what].get(kind, 0) for key in result["keys"]) for kind in KINDS}


def _tokens(invoice: Mapping[str, Any]) -> dict[str, int]:
    return {
        kind: sum(line["quantity"] for line in invoice["lines"] if line["kind"] == kind)
        for kind in KINDS
    }


def _value(report: Report, operator: str, tokens: Mapping[str, int]) -> Decimal:
    """Return the cost of tokens at the operator's own metered prices."""
    prices = {
        line["kind"]: Decimal(line["unit_price"]) / line["per"]
        for line in report.costs["meters"][operator]["lines"]
    }
    return sum((count * prices[kind] for kind, count in tokens.items() if count), Decimal(0))


def render(report: Report) -> RenderableType:
    """Lay the report out for a person."""
    facts = facts_of(report)
    parts: list[RenderableType] = [
        "",
        _figures(report),
        _verdicts(report),
        _money(report),
        _facts(facts),
    ]
    if report.deaths:
        parts.append(
            Text("Processes that died and were restarted: " + "; ".join(report.deaths), "yellow")
        )
    parts.append(_places(report))
    verdict = all(fact.holds for fact in facts)
    words = "Every fact holds." if verdict else "NOT every fact holds; see above."
    parts.append(Text(words, "bold green" if verdict else "bold red"))
    return Group(*parts)


def _figures(report: Report) -> Table:
    answers = [answer for answer in report.answers if answer.get("checked")]
    tokens = sum(answer["usage"]["output"] for answer in answers)
    ttft = [answer["ttft_ms"] for answer in answers]
    total = [answer["total_ms"] for answer in answers]
    status = report.log["status"]
    table = Table(title="What happened", title_justify="left", show_header=False)
    rows = [
        ("requests answered", f"{len(answers)} with {tokens} output tokens"),
        (
            "throughput",
            f"{tokens / report.seconds['answers']:.0f} tokens/s over three nodes, client included",
        ),
        (
            "time to first token",
            f"median {median(ttft):.0f} ms, longest {max(ttft):.0f} ms" if ttft else "-",
        ),
        (
            "time to answer",
            f"median {median(total):.0f} ms, longest {max(total):.0f} ms" if total else "-",
        ),
        ("log", f"{status['size']} entries, {status['witnessed_size']} witnessed"),
        ("checkpoint root", str(status["witnessed_root"])),
        ("findings", str(status["findings"])),
        (
            "time",
            "{start:.1f} s to start, {answers:.1f} s to answer, {all:.1f} s in all".format_map(
                report.seconds
            ),
        ),
    ]
    for name, value in rows:
        table.add_row(name, escape(value))
    return table


def _verdicts(report: Report) -> Table:
    table = Table(title="Verdicts by node", title_justify="left")
    columns = ("receipts", "drawn", "PASS", "FAIL", "INCONCLUSIVE", "confirmed")
    table.add_column("node")
    for column in columns:
        shown = "confirmed FAIL" if column == "confirmed" else column
        table.add_column(shown, justify="right")
    counts: Mapping[str, Mapping[str, int]] = report.view.by_node()
    for node in report.plan.nodes:
        count = counts.get(node.name, {})
        cells = [str(count.get(column, 0)) for column in columns]
        table.add_row(node.name, *cells, style="red" if count.get("confirmed") else None)
    return table


def _money(report: Report) -> Table:
    table = Table(title="Cost by operator", title_justify="left")
    for column in ("operator", "node"):
        table.add_column(column)
    for column in ("payable", "invoice claims", "variance", "of it refused", "tokens over"):
        table.add_column(column, justify="right")
    for node in report.plan.nodes:
        result = report.costs["reconciled"][node.operator]
        payable = Decimal(result["proven"]) - Decimal(result["held"])
        stated = (Decimal(result[name]) for name in ("billed", "gap"))
        amounts = (payable, *stated, Decimal(result["parts"]["unproven"]))
        over, refused = (_counted(result, what) for what in ("tokens", "refused"))
        tokens = sum(over.values()) - sum(refused.values())
        table.add_row(
            node.operator,
            node.name,
            *(f"{amount:.6f} {result['currency']}" for amount in amounts),
            f"{tokens:+d}" if tokens else "0",
            style="red" if tokens or any(refused.values()) else None,
        )
    return table


def _facts(facts: Sequence[Fact]) -> Table:
    table = Table(title="Facts", title_justify="left", show_header=False)
    for fact in facts:
        mark = "[green]✓[/]" if fact.holds else "[red]✗[/]"
        table.add_row(mark, escape(fact.promise), escape(fact.found))
    return table


def _places(report: Report) -> Table:
    plan = report.plan
    shown = Table(title="Where things are", title_justify="left", show_header=False)
    rows = [
        ("everything", str(plan.folder)),
        ("logs of the processes", str(plan.path("logs"))),
        ("invoices, FOCUS export", f"{plan.path('invoices')}, {report.costs['focus']['file']}"),
    ]  # fmt: skip
    for name, value in rows:
        shown.add_row(name, escape(value))
    return shown


def what_to_try(report: Report) -> str:
    """Return commands to continue with, one per line, quoted for a shell."""
    plan = report.plan
    client, dsn = (
        plan.path("client", "client.toml"),
        plan.path("postgres", "secrets", "server.dsn"),
    )
    invoice = report.costs["invoices"][plan.nodes[-1].operator]
    steps = {
        "keep the platform up": ("up", "--folder", plan.folder),
        "then ask a question": (
            *("infer", "--config", client, "--temperature", "0", "What does the owl eat?"),
        ),
        "look at one variance": ("cost", "reconcile", invoice, "--dsn-file", dsn),
    }
    lines = (f"# {what}\n{command_line('counterfoil', *words)}" for what, words in steps.items())
    return "What to try next:\n\n" + "\n".join(lines) + "\n"
