"""The figures for a person. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.common.table import Figures, head, mark
from benchmarks.detection.power import OURS
from benchmarks.detection.reference import VERIFIERS

NAMES: Final = {
    OURS: "ours",
    "toploc": "TOPLOC",
    "activation-difr": "Activation-DiFR",
    "token-difr": "Token-DiFR",
}
AIMS: Final[Mapping[str, float]] = {"evidence": 40, "receipt": 1000, "commit": 0.02, "replay": 0.05}
"""At most: bytes per token, bytes, a share of the time, and a share of the generation's time."""


def render(found: Figures) -> RenderableType:
    """Return what was measured, part by part."""
    parts: list[RenderableType] = []
    shown = {"power": _power, "rare": _rare, "costs": _costs, "honest": _honest}
    for name, show in shown.items():
        if name in found["parts"]:
            parts += [head(found["parts"][name]["machine"]), *show(found["parts"][name])]
    return Group(*parts)


def best(schemes: Sequence[Figures], scheme: str, rate: float) -> Figures | None:
    """Return a scheme's row for the verifier and pool with which it needs the fewest audits, the surest of equals.

    None where no row finds more than honest requests are accused at this rate: chance finds as many.
    """
    rows = [one for one in schemes if one["scheme"] == scheme and one.get("low", 0) > rate]
    key = lambda one: (one["audits"], -one["hits"], one["pool"])  # noqa: E731
    return min(rows, key=key, default=None)


def interval(one: Figures, form: str = ".0%") -> str:
    """Return a share with its 95 % interval."""
    if not one["of"]:
        return "–"
    return f"{one['hits'] / one['of']:{form}} ({one['low']:{form}}–{one['high']:{form}})"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", no_wrap=not place)
    return table


def _power(found: Figures) -> Iterator[RenderableType]:
    size = found["size"]
    yield (
        f"Nodes in {found['node']}. The schemes' thresholds are set on {size['calibration']} honest requests at "
        f"{found['rate']:.1%} false positives per verdict. Share of the answers that differ that are found, each judged alone "
        f"(exact 95 % interval); in brackets how many audits (≤ at the interval's lower end) and tokens find the node with 95 %, "
        f"and how many answers are then judged together; – where a scheme finds no more than its false positives."
    )
    yield _who(found, "Who is found, by the verifier that finds most", VERIFIERS)
    yield _who(found, "Who is found, by a verifier that runs transformers", ("transformers",))
    honest = found["honest"]
    table = _table(
        f"False alarms among {honest['requests']} other honest requests, {honest['tokens']} tokens",
        *("method", "verifier", "answers together", "alarms", "share"),
    )
    ours = honest[OURS]
    table.add_row("ours", "exact", "1", f"{ours['hits']} of {ours['of']}", interval(ours, ".2%"))
    for one in honest["schemes"]:
        table.add_row(
            *(NAMES[one["scheme"]], one["verifier"], str(one["pool"])),
            *(f"{one['hits']} of {one['of']}", interval(one, ".2%")),
        )
    matches = (f"{interval(one, '.2%')} ({name})" for name, one in honest["matches"].items())
    table.caption = f"tokens that the verifiers would have chosen too: {', '.join(matches)}"
    yield table


def _who(found: Figures, title: str, verifiers: Sequence[str]) -> Table:
    columns = ("adversary", "differ", "our verdict", *NAMES.values(), "TOPLOC, its own limits")
    table = _table(title, *columns)
    for row in found["adversaries"]:
        if row["different"]:
            differ, reasons = f"{row['different']}/{row['requests']}", ", ".join(row["reasons"])
            table.add_row(row["name"], differ, reasons, *_cells(row, verifiers, found["rate"]))
    return table


def _cells(row: Figures, verifiers: Sequence[str], rate: float) -> Iterator[str]:
    yield f"{interval(row[OURS])} {_effort(row[OURS])}"
    schemes = [one for one in row["schemes"] if one["verifier"] in verifiers]
    for scheme in list(NAMES)[1:]:
        alone = [one for one in schemes if one["scheme"] == scheme and one["pool"] == 1]
        most = max(alone, key=lambda one: one["hits"])
        yield f"{interval(most)} {_effort(best(schemes, scheme, rate))}"
    published = [one for one in row["published"] if one["verifier"] in verifiers]
    yield interval(max(published, key=lambda one: one["hits"]))


def _effort(one: Figures | None) -> str:
    if one is None or not one["hits"]:
        return "[dim]\\[–][/]"
    together = "" if one["pool"] == 1 else f" by {one['pool']}"
    most = one["audits_at_most"]
    return f"[dim]\\[{one['audits']} (≤ {most}), {one['tokens']}{together}][/]"


def _rare(found: Figures) -> Iterator[RenderableType]:
    within = [f"within {limit}" for limit in (69, 298)]
    table = _table(
        f"One request in {found['one_in']} is cheated, {found['rate_ppm'] / 1e4:.0f} % of receipts drawn: audits until found, "
        f"{found['seeds']} simulated logs",
        *(
            "method",
            "power",
            "median",
            "95 %",
            "by the law",
            *within,
            "false alarms per 298 audits",
        ),
    )
    for one in found["methods"]:
        if not one["hits"]:
            table.add_row(NAMES[one["method"]], f"0 of {one['of']}", *["–"] * 6)
            continue
        table.add_row(
            *(NAMES[one["method"]], f"{one['hits']} of {one['of']}"),
            *(f"{one['median']:.0f}", f"{one['percentile_95']}"),
            f"{one['law_median']}, {one['law_95']}",
            *(f"{interval(each, '.1%')} law {each['law']:.1%}" for each in one["within"]),
            f"{298 * one['alarms']:.1f}",
        )
    yield table


def _costs(found: Figures) -> Iterator[RenderableType]:
    table = _table("Bytes", "answers of at most", "tokens each", "evidence per token", "receipt")
    for one in found["bytes"]:
        evidence, receipt = one["evidence_bytes_per_token"], one["receipt_bytes"]
        table.add_row(
            *(str(one["at_most"]), str(one["tokens_each"])),
            f"{evidence['median']:.1f}, at most {evidence['high']:.1f}"
            + mark(evidence["high"] <= AIMS["evidence"]),
            f"{receipt['median']:.0f}, at most {receipt['high']:.0f}"
            + mark(receipt["high"] <= AIMS["receipt"]),
        )
    told = ", ".join(f"{NAMES[name]} {value:g}" for name, value in found["schemes"].items())
    table.caption = f"per decoded token: {told}"
    yield table
    title = f"Compute, {found['tokens']} tokens after {found['prompt']}, {found['rounds']} rounds"
    table = _table(
        title, "model", "with ÷ without", "hashing's part", "replay ÷ answer", "pass ÷ answer"
    )
    for model in found["models"]:
        commit, audit = model["commitments"], model["audits"]
        table.add_row(
            *(model["name"], _spread(commit["with_over_without"])),
            _spread(commit["part_of_time"]) + mark(_met(commit["part_of_time"], "commit")),
            _spread(audit["replay"]) + mark(_met(audit["replay"], "replay")),
            _spread(audit["pass"]),
        )
    yield table


def _met(value: Figures, aim: str) -> bool:
    return bool(value["median"] <= AIMS[aim])


def _spread(value: Figures) -> str:
    return f"{value['median']:.3f} ({value['low']:.3f}–{value['high']:.3f})"


def _honest(found: Figures) -> Iterator[RenderableType]:
    every: dict[str, Any] = found["all"]
    table = _table(
        f"{every['tokens']} honest tokens in {every['requests']} requests: {every['alarms']} alarms; with 95 % at most "
        f"{every['at_most_per_request']:.2g} per request, {every['at_most_per_token']:.2g} per token",
        *("served", "tokens", "requests", "alarms", "prompt tokens cached", "preemptions"),
    )
    for one in found["ways"]:
        table.add_row(
            *(one["way"], str(one["tokens"]), str(one["requests"]), str(one["alarms"])),
            *(f"{one['cached']} of {one['prompt_tokens']}", str(one["preemptions"])),
        )
    yield table
