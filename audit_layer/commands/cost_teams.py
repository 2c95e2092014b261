"""`counterfoil cost teams`: spend by what blinded tags stand for, which the server does not know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from audit_layer.commands.cost_client import Api, shown, with_api
from audit_layer.commands.cost_days import Which, which_charges
from audit_layer.commands.cost_tags import book_of, tag_options
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.output import emit, table

if TYPE_CHECKING:
    from decimal import Decimal

    from shared.statements.tag_book import TagBook

NO_TAGS: Final = "(no tags)"
UNRESOLVED: Final = "(unresolved)"
"""Of orders whose tags no book at hand has, or has for another tenant."""
WHOLE_PERIOD: Final = "(whole period)"
"""Discounts, fees, credits and rounding of a billing period."""


@click.command("teams")
@which_charges
@tag_options
@click.option("--by", default="team", show_default=True, help="Name of the tag to group by.")
@with_api
def teams(
    api: Api,
    *,
    which: Which,
    tags: Path | None,
    tag_key: Path | None,
    candidates: tuple[str, ...],
    by: str,
    as_json: bool,
) -> None:
    """Show what each team spends: receipts, tokens, exact amounts, and what of them a verdict holds up.

    Teams are read from --tags, or --tag-key with --tag, on this machine. Cost centres that they do not explain are one row,
    and so are orders without tags.
    """
    book = book_of(tags, tag_key, candidates, which.parameters["tenant"])
    found = api.get("/centres", **which.parameters)
    spends = by_tag(found["sums"], book, by)
    rows = [spend.as_json() for spend in spends]
    rows += [_of_period(found, charge) for charge in found["charges"]]
    columns = (by, "tenant", "receipts", "tokens", "amount", "held", "currency")

    def render() -> Any:
        if not rows:
            return f"Nothing was charged in {which.words}."
        cells = [
            [
                *(row["value"] or row["state"], row["tenant"], row["receipts"], row["tokens"]),
                *(shown(row["amount"]), shown(row["held"]), row["currency"]),
            ]
            for row in rows
        ]
        return table(f"Spend of {which.words} by {by}", columns, cells)

    emit({"by": by, "rows": rows}, as_json, render)


def _of_period(found: Mapping[str, Any], charge: Mapping[str, Any]) -> dict[str, Any]:
    spend = Spend(found["tenant"], None, WHOLE_PERIOD, found["currency"])
    return {**spend.as_json(), "amount": charge["amount"], "why": charge["why"]}


@dataclass(slots=True)
class Spend:
    """What one value of a tag comes to for one tenant, in one currency."""

    tenant: str
    value: str | None
    state: str | None
    """Why there is no value."""
    currency: str
    receipts: int = 0
    tokens: int = 0
    amounts: list["Decimal"] = field(default_factory=list)
    held: list["Decimal"] = field(default_factory=list)
    centres: set[str] = field(default_factory=set)
    models: dict[str, list["Decimal"]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a centre's sum."""
        from decimal import Decimal  # noqa: PLC0415  # --help stays light

        amount = Decimal(row["amount"])
        self.receipts += row["receipts"]
        self.tokens += row["tokens"]
        self.amounts.append(amount)
        self.held.append(Decimal(row["held"]))
        self.models.setdefault(row["model_name"] or row["model_root"][:16], []).append(amount)
        if row["cost_centre"]:
            self.centres.add(row["cost_centre"])

    def as_json(self) -> dict[str, Any]:
        """Return it with exact amounts as text."""
        return {
            "tenant": self.tenant,
            "value": self.value,
            "state": self.state,
            "currency": self.currency,
            "receipts": self.receipts,
            "tokens": self.tokens,
            "centres": len(self.centres),
            "amount": _sum(self.amounts),
            "held": _sum(self.held),
            "models": {name: _sum(amounts) for name, amounts in sorted(self.models.items())},
        }


def by_tag(sums: Sequence[Mapping[str, Any]], book: "TagBook | None", by: str) -> list[Spend]:
    """Return the spend by the values of a tag: values in order, then what has none. A book speaks for its own tenant only."""
    from shared.statements.tags import TAG_NAME  # noqa: PLC0415  # --help stays light

    if not TAG_NAME.fullmatch(by):
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"{by[:60]!r} cannot be the name of a tag")
    found: dict[tuple[str, str | None, str | None, str], Spend] = {}
    for row in sums:
        value, state = _value(row, book, by)
        key = (row["tenant"], value, state, row["currency"])
        found.setdefault(key, Spend(*key)).add(row)
    return sorted(
        found.values(),
        key=lambda one: (one.value is None, one.value or "", one.state or "", one.tenant),
    )


def _value(
    row: Mapping[str, Any], book: "TagBook | None", by: str
) -> tuple[str | None, str | None]:
    centre = row["cost_centre"]
    if centre is None:
        return None, NO_TAGS
    tags: Mapping[str, str] = {}
    if book is not None and row["tenant"] == book.tenant:
        tags = book.tags_of(bytes.fromhex(centre))
    if not tags:
        return None, UNRESOLVED
    return (tags[by], None) if by in tags else (None, f"(no {by})")


def _sum(amounts: Sequence["Decimal"]) -> str:
    from fractions import Fraction  # noqa: PLC0415  # --help stays light

    from audit_layer.costs.reporting import exact  # noqa: PLC0415

    return exact(sum(map(Fraction, amounts), Fraction()))
