"""The demonstration's report for people. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from statistics import median

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from shared.installation.facts import Fact, Report, counted, facts_of
from shared.runtime.printable import command_line


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
    ttft = [answer["ttft_ms"] for answer in answers if answer["ttft_ms"] is not None]
    total = [answer["total_ms"] for answer in answers]
    status = report.log["status"]
    table = Table(title="What happened", title_justify="left", show_header=False)
    rows = [
        ("requests answered", f"{len(answers)} with {tokens} output tokens"),
        (
            "throughput",
            f"{tokens / report.seconds['answers']:.0f} tokens/s over all nodes, client included",
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
        table.add_column(column, justify="right")
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
        if node.operator not in report.costs["reconciled"]:
            table.add_row(node.operator, node.name, *("-" for _ in range(5)), style="red")
            continue
        result = report.costs["reconciled"][node.operator]
        payable = Decimal(result["proven"]) - Decimal(result["held"])
        stated = (Decimal(result[name]) for name in ("billed", "gap"))
        amounts = (payable, *stated, Decimal(result["parts"]["unproven"]))
        over, refused = (counted(result, what) for what in ("tokens", "refused"))
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
    client = plan.path("client", "client.toml")
    invoice = list(report.costs["invoices"].values())[-1]
    steps = {
        "keep the platform up": ("up", "--folder", plan.folder),
        "then ask a question": (
            *("infer", "--config", client, "--temperature", "0", "What does the owl eat?"),
        ),
        "and look at one variance, with the settings that it prints": (
            "cost",
            "reconcile",
            invoice,
        ),
    }
    lines = (f"# {what}\n{command_line('counterfoil', *words)}" for what, words in steps.items())
    return "What to try next:\n\n" + "\n".join(lines) + "\n"
