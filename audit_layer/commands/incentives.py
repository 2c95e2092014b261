"""`counterfoil audit incentives`: the audit rate, the stake and the exposure that make honesty pay best."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from audit_layer.commands.options import FILE
from shared.runtime.output import emit, json_option, table
from shared.verification.incentive_terms import NAMES, Terms, read_money

if TYPE_CHECKING:
    from shared.verification.incentives import Policy

F = TypeVar("F", bound=Callable[..., Any])
SHARE_OF_PPM = 10_000


def _term_options(command: F) -> F:
    """Give a command an option for each term; what is said about it comes from the term."""
    for each in reversed(dataclasses.fields(Terms)):
        symbol, default = each.metadata["symbol"], each.metadata["default"]
        said = f"{symbol}: {each.metadata['says']}" if symbol else each.metadata["says"]
        option = click.option(
            f"--{each.name.replace('_', '-')}",
            metavar="NUMBER" if each.name != "currency" else "CODE",
            help=f"{said}  [default: {default}]" if default else said,
        )
        command = option(command)
    return command


@click.command("incentives")
@click.option("--terms", "terms_file", type=FILE, help="TOML file of terms; options overrule it.")
@click.option("--rate-ppm", type=click.IntRange(1, 1_000_000), help="Compute with this audit rate.")
@click.option("--stake", metavar="NUMBER", help="Compute with this stake.")
@_term_options
@json_option
def incentives(
    terms_file: Path | None,
    rate_ppm: int | None,
    stake: str | None,
    as_json: bool,
    **given: str | None,
) -> int:
    """Compute audit rate, stake and largest exposure, and show every inequality behind them with its numbers.

    With --rate-ppm the stake that it needs, with --stake the rate that it needs, with neither the cheapest of both. With
    both nothing is computed but whether they do: exit code 1 if an inequality does not hold. docs/incentives.md has the
    symbols.
    """
    from shared.verification.incentives import judge, solve  # noqa: PLC0415  # --help stays light

    texts = {} if terms_file is None else _from_file(terms_file)
    texts |= {name: text for name, text in given.items() if text is not None}
    terms = Terms.read(texts)
    staked = None if stake is None else read_money(stake, "--stake")
    if rate_ppm is not None and staked is not None:
        policy = judge(terms, rate_ppm=rate_ppm, stake=staked)
    else:
        policy = solve(terms, rate_ppm=rate_ppm, stake=staked)
    emit(_plain(policy), as_json, lambda: _rendered(policy))
    return 0 if policy.holds else 1


def _from_file(file: Path) -> dict[str, str]:
    """Return the terms of a TOML file as texts; CONFIGURATION for a key that is no term or a value that is no number."""
    from pydantic import StrictFloat, StrictInt, StrictStr, create_model  # noqa: PLC0415  # likewise

    from shared.runtime.config import Settings, load  # noqa: PLC0415  # likewise

    fields: Any = dict.fromkeys(NAMES, (StrictStr | StrictInt | StrictFloat | None, None))
    read = load(create_model("TermsFile", __base__=Settings, **fields), file)
    return {name: str(value) for name, value in read if value is not None}


def _plain(policy: "Policy") -> dict[str, Any]:
    from shared.verification.incentive_inequalities import exact, shown  # noqa: PLC0415  # likewise

    terms = {
        name: exact(value) if isinstance(value, Fraction) else value
        for name in NAMES
        if (value := getattr(policy.terms, name)) is not None
    }
    return {
        "holds": policy.holds,
        "currency": policy.terms.currency,
        "rate_ppm": policy.rate_ppm,
        "rates_ppm": {standing.value: rate for standing, rate in policy.rates.items()},
        "stake": exact(policy.stake),
        "slash": exact(policy.terms.slash * policy.stake),
        "unsettled": policy.unsettled,
        "exposure": exact(policy.exposure),
        **({} if policy.planted_ppm is None else {"planted_ppm": policy.planted_ppm}),
        **({} if policy.bond is None else {"bond": exact(policy.bond)}),
        "inequalities": [
            {
                "name": each.name,
                "formula": each.formula,
                "numbers": each.numbers,
                "left": shown(each.left),
                "right": shown(each.right),
                "left_exact": exact(each.left),
                "right_exact": exact(each.right),
                "holds": each.holds,
                **({} if each.holds else {"remedy": each.remedy}),
            }
            for each in policy.inequalities
        ],
        "terms": terms,
    }


def _rendered(policy: "Policy") -> Any:
    from rich.console import Group  # noqa: PLC0415  # likewise

    from shared.verification.incentive_inequalities import exact, shown  # noqa: PLC0415  # likewise

    currency = policy.terms.currency
    inequalities = table(
        "Inequalities",
        ("", "says", "with its numbers", "left", "right", ""),
        [
            (
                each.name,
                each.formula,
                each.numbers,
                shown(each.left),
                shown(each.right),
                "holds" if each.holds else f"does not hold. {each.remedy}",
            )
            for each in policy.inequalities
        ],
    )
    percent = {
        name: f"{shown(Fraction(rate, SHARE_OF_PPM))} %" for name, rate in policy.rates.items()
    }
    rows = [
        ("audit rate", f"{percent.pop(max(percent, key=lambda name: name.rank))} of receipts"),
        *((f"  of a node that is {name}", rate) for name, rate in reversed(percent.items())),
        ("stake of a node", f"{exact(policy.stake)} {currency}"),
        ("  of it a conviction takes", f"{exact(policy.terms.slash * policy.stake)} {currency}"),
        (
            "largest unsettled exposure",
            f"{exact(policy.exposure)} {currency}: {policy.unsettled:,} receipts",
        ),
    ]
    if policy.planted_ppm is not None:
        planted = shown(Fraction(policy.planted_ppm, SHARE_OF_PPM))
        rows.append(("audits of planted errors", f"{planted} % of audits"))
    if policy.bond is not None:
        rows.append(("bond of a challenger", f"{exact(policy.bond)} {currency}"))
    return Group(inequalities, table("What follows", ("", ""), rows))
