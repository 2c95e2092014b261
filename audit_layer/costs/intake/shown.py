"""A dry run in words, for a terminal, and as JSON. Pure; everything that comes from the file is made printable."""

from typing import Any, Final

from audit_layer.costs.intake.faults import quoted
from audit_layer.costs.intake.read import Preview
from audit_layer.costs.intake.trace import FieldReading
from shared.runtime.printable import printable

_ORDER: Final = ("line", "total", "skipped", "problem")


def lines_of(made: Preview) -> list[str]:
    """Return what a dry run prints, line by line."""
    told = [f"Read as {made.format.value}.", "", *(f"  {_field(fact)}" for fact in made.facts)]
    for row in made.rows:
        why = f": {row.why}" if row.why else ""
        told.append(f"row {row.row} is {_article(row.outcome)}{why}")
        told.extend(f"  {_field(field)}" for field in row.fields)
    counted = [f"{made.counts[name]} {name}" for name in _ORDER if made.counts.get(name)]
    told += ["", f"Rows: {', '.join(counted) or 'none'}."]
    told += [f"Note: {printable(note, 400)}." for note in made.notes]
    if made.invoice is not None:
        invoice = made.invoice
        told.append(
            f"Invoice {quoted(invoice.invoice_id)} of {invoice.operator}, {invoice.first} to before {invoice.end}: "
            f"{len(invoice.lines)} lines, total {invoice.total:f} {invoice.currency} "
            f"(rounding {invoice.rounding:f})."
        )
        return told
    many = "1 problem" if made.problem_count == 1 else f"{made.problem_count} problems"
    told.append(f"{many}; nothing would be stored.")
    told += [f"  {problem}" for problem in made.told]
    return told


def as_json(made: Preview) -> dict[str, Any]:
    """Return a dry run for programs; the texts of the file are as they are."""
    return {
        "format": made.format.value,
        "readable": made.invoice is not None,
        "facts": [_object(fact) for fact in made.facts],
        "rows": [
            {
                "row": row.row,
                "outcome": row.outcome,
                "why": row.why,
                "fields": [_object(field) for field in row.fields],
            }
            for row in made.rows
        ],
        "counts": dict(made.counts),
        "problems": [
            {
                "row": problem.row,
                "column": problem.column,
                "field": problem.field,
                "raw": problem.raw,
                "expected": problem.expected,
            }
            for problem in made.problems
        ],
        "problem_count": made.problem_count,
        "notes": list(made.notes),
    }


def _field(reading: FieldReading) -> str:
    meant = "" if reading.raw == reading.meaning else f" → {printable(reading.meaning, 80)}"
    return f"{reading.field}: {quoted(reading.raw)}{meant} ({printable(reading.source, 80)})"


def _object(reading: FieldReading) -> dict[str, str]:
    return {
        "field": reading.field,
        "source": reading.source,
        "raw": reading.raw,
        "meaning": reading.meaning,
    }


def _article(outcome: str) -> str:
    return outcome if outcome == "skipped" else f"a {outcome}"
