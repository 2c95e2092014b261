"""`counterfoil cost plausibility`: whether hardware can have done what an operator's receipts claim."""

from datetime import date
from pathlib import Path
from typing import Any

import click

from audit_layer.commands.cost_client import Api, with_api
from audit_layer.commands.cost_days import day_options, days_chosen, name_of
from audit_layer.commands.options import FILE
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit


@click.command("plausibility")
@click.option(
    "--serving", type=FILE, required=True, help="How it serves (TOML; docs/plausibility.md)."
)
@click.option("--operator", required=True, callback=name_of, help="Whose receipts.")
@click.option("--node", callback=name_of, help="Only this node's [default: each node's].")
@day_options
@click.option("--devices", type=FILE, help="Devices that the table does not have (TOML).")
@with_api
def plausibility(
    api: Api,
    *,
    serving: Path,
    operator: str,
    node: str | None,
    start: date | None,
    end: date | None,
    zone_name: str,
    devices: Path | None,
    as_json: bool,
) -> int:
    """Hold an operator's receipts, one by one and together, against what the declared hardware can do at most.

    A finding convicts nobody: it shows its arithmetic, and what was declared that loosens the bound. What was not measured
    is counted, not judged. Exit code 3 when there is a finding.
    """
    from audit_layer.costs.plausibility.serving_file import MAX_BYTES  # noqa: PLC0415  # --help stays light
    from shared.verification.devices import MAX_BYTES as DEVICES_BYTES  # noqa: PLC0415

    which = days_chosen(start, end, zone_name, {"operator": operator, "node": node})
    body = {
        **which.parameters,
        "serving": _text(serving, MAX_BYTES),
        "devices": None if devices is None else _text(devices, DEVICES_BYTES),
    }
    found = api.post("/plausibility", body)
    emit(found, as_json, lambda: _shown(found, which.words))
    return 3 if found["implausible"] else 0


def _text(path: Path, most: int) -> str:
    from shared.runtime.reading import read_bounded  # noqa: PLC0415  # --help stays light

    data = read_bounded(path, most)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is not UTF-8") from error
    if len(data) > most:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is longer than {most} bytes")
    return text


def _shown(found: dict[str, Any], when: str) -> str:
    if not found["nodes"]:
        return f"{found['operator']} has no receipts of {when}."
    return "\n\n".join(_node(found["operator"], node, when) for node in found["nodes"])


def _node(operator: str, node: dict[str, Any], when: str) -> str:
    lines = [f"{operator}/{node['node']}, {when}: {node['receipts']:,} receipts"]
    counts = node["findings"]
    if not counts and not node["together"]:
        lines.append("  nothing is beyond what the declared hardware can do")
    for quantity, count in counts.items():
        lines.append(f"  {quantity}: {count:,} of them beyond the bound")
    for title, findings in (
        ("One by one, the worst:", node["worst"]),
        ("Together, of each kind the worst:", node["together"]),
    ):
        if findings:
            lines.append(f"  {title}")
            lines += [line for finding in findings for line in _finding(finding)]
    for quantity, count in node["unmeasured"].items():
        lines.append(f"  unmeasured {quantity}: {count:,} of them; that is not zero")
    for what, reasons in (
        ("one by one", node["unbounded"]),
        ("together", node["unbounded_together"]),
    ):
        for reason, count in reasons.items():
            lines.append(f"  without a bound, {what}: {count:,} × {reason}")
    return "\n".join(lines)


def _finding(finding: dict[str, Any]) -> list[str]:
    lines = [f"    {finding['quantity']}  {finding['subject']}", f"      {finding['arithmetic']}"]
    if finding["loosened_by"]:
        lines.append(f"      loosened by {'; '.join(finding['loosened_by'])}")
    return lines
