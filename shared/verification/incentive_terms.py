"""What the policy of audits and stakes is computed from: prices, costs, shares and measured figures, each checked. Pure.

Every number is exact. docs/incentives.md says what each symbol means, and where the defaults were measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, Final, Self

from shared.codec.money import check_currency, minor_digits, parse_decimal
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import PPM

MOST_MONEY: Final = 10**15
MOST_COUNT: Final = 10**12
MEASURED_POWER: Final = "0.963"
"""Of 100 audited cheats 100 were found: 96.4 % is the lower end of the exact 95 % interval (docs/benchmarks-detection.md,
"Who is found")."""
MEASURED_ALARMS: Final = "0.000147"
"""Of 20,420 honest requests none was accused: with 95 % the rate is at most 1 − 0.05^(1/20420) (the same, "False alarms")."""


def read_money(text: str, name: str) -> Fraction:
    """Read an amount from a plain decimal text; INVALID_ARGUMENT if it is negative or above `MOST_MONEY`."""
    number = Fraction(parse_decimal(text, name))
    _require(0 <= number <= MOST_MONEY, f"{name} must be from 0 to {MOST_MONEY}, not {text}")
    return number


def _share(text: str, name: str) -> Fraction:
    number = Fraction(parse_decimal(text, name))
    _require(0 <= number <= 1, f"{name} is a share: from 0 to 1, not {text}")
    return number


def _factor(text: str, name: str) -> Fraction:
    number = Fraction(parse_decimal(text, name))
    _require(1 <= number <= PPM, f"{name} is a factor: from 1 to {PPM}, not {text}")
    return number


def _count(text: str, name: str) -> int:
    number = Fraction(parse_decimal(text, name))
    whole = number.denominator == 1 and 0 <= number <= MOST_COUNT
    _require(whole, f"{name} must be a whole number from 0 to {MOST_COUNT}, not {text}")
    return int(number)


def _ppm(text: str, name: str) -> int:
    number = _count(text, name)
    _require(1 <= number <= PPM, f"{name} must be from 1 to {PPM} in a million, not {text}")
    return number


def _positive(text: str, name: str) -> int:
    number = _count(text, name)
    _require(number > 0, f"{name} must be at least 1")
    return number


def _currency(text: str, _name: str) -> str:
    return check_currency(text)


def _term(
    symbol: str, read: Callable[[str, str], Any], says: str, default: str | None = ""
) -> dict[str, Any]:
    """Return what is known of a term. Its default is a text that is read like any other; None makes it optional, "" needed."""
    return {"symbol": symbol, "read": read, "says": says, "default": default}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """All that the policy is computed from. Money is in whole units of `currency`; absent groups are not computed."""

    currency: str = field(metadata=_term("", _currency, "Currency of every amount.", "EUR"))
    digits: int | None = field(metadata=_term("", _count, "Digits of a token's minor unit.", None))
    price: Fraction = field(metadata=_term("R", read_money, "What one receipt is paid."))
    honest_cost: Fraction = field(
        metadata=_term("C", read_money, "What it costs to serve one request honestly.")
    )
    cheat_cost: Fraction = field(
        metadata=_term("c", read_money, "What it costs to serve it by the cheapest cheat.")
    )
    power: Fraction = field(
        metadata=_term("d", _share, "Share of audited cheats that are found.", MEASURED_POWER)
    )
    alarms: Fraction = field(
        metadata=_term("f", _share, "Share of honest answers that audits accuse.", MEASURED_ALARMS)
    )
    collusion: Fraction = field(
        metadata=_term("k", _share, "Share of audits in bought or idle hands.", "0.05")
    )
    bounty: Fraction = field(
        metadata=_term("b", _share, "Share of a slash that its finder gets.", "0.2")
    )
    slash: Fraction = field(
        metadata=_term("s", _share, "Share of the stake that a conviction takes.", "1")
    )
    margin: Fraction = field(
        metadata=_term("m", _factor, "Factor by which gains are overestimated.", "1.25")
    )
    unsettled: int | None = field(
        metadata=_term("N", _count, "Receipts of a node not settled at once.", None)
    )
    audit_cost: Fraction = field(metadata=_term("a", read_money, "What one audit costs."))
    capital_rate: Fraction = field(
        metadata=_term("", _share, "What locked stake costs, per year.", "0.1")
    )
    receipts_per_year: int = field(metadata=_term("", _positive, "Receipts of a node in a year."))
    floor_ppm: int = field(metadata=_term("", _ppm, "Lowest audit rate, in a million.", "1"))
    new_times: Fraction = field(
        metadata=_term("", _factor, "New nodes are audited so many times as often.", "4")
    )
    watched_times: Fraction = field(
        metadata=_term("", _factor, "And nodes that are watched.", "10")
    )
    auditor_fee: Fraction | None = field(
        metadata=_term("F", read_money, "What an auditor gets for an audit.", None)
    )
    auditor_stake: Fraction | None = field(
        metadata=_term("A", read_money, "What an auditor has staked.", None)
    )
    auditor_strikes: int = field(
        metadata=_term("n", _positive, "Each planted error passed takes an n-th of it.", "2")
    )
    challenge_cost: Fraction | None = field(
        metadata=_term("V", read_money, "What a challenge costs who is right.", None)
    )
    defence_cost: Fraction | None = field(
        metadata=_term("D", read_money, "What a false one costs the others.", None)
    )
    false_gain: Fraction = field(
        metadata=_term("h", read_money, "What a false one brings beside the books.", "0")
    )

    def __post_init__(self) -> None:
        _require(self.price > 0, "price must be above 0")
        _require(self.bounty < 1, "bounty must be below 1: who accuses himself gets it back")
        _require(self.slash > 0, "slash must be above 0: nothing would be at risk")
        auditor = {self.auditor_fee is None, self.auditor_stake is None}
        _require(len(auditor) == 1, "auditor_fee and auditor_stake belong together")
        challenge = {self.challenge_cost is None, self.defence_cost is None}
        _require(len(challenge) == 1, "challenge_cost and defence_cost belong together")
        _require(self.places <= 12, "digits must be from 0 to 12")

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> Self:
        """Read terms from plain decimal texts; INVALID_ARGUMENT names the one that cannot be used, or is missing."""
        if unknown := sorted(set(texts) - set(NAMES)):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"there is no term {unknown[0][:40]!r}",
                remedy=f"Terms are: {', '.join(NAMES)}.",
            )
        values: dict[str, Any] = {}
        for each in fields(cls):
            text = texts.get(each.name, each.metadata["default"])
            _require(text != "", f"{each.name} is missing: {each.metadata['says']}")
            values[each.name] = None if text is None else each.metadata["read"](text, each.name)
        return cls(**values)

    @property
    def places(self) -> int:
        """Digits of the currency's minor unit."""
        return minor_digits(self.currency) if self.digits is None else self.digits

    @property
    def gain(self) -> Fraction:
        """G: what one cheat saves, overestimated by the margin."""
        return self.margin * (self.honest_cost - self.cheat_cost)

    @property
    def caught(self) -> Fraction:
        """δ: probability that an audited cheat ends in a confirmed FAIL.

        Its first worker must not be bought, and then the second, or else the third (protocol §6.3.2).
        """
        true = 1 - self.collusion
        return self.power * true * (true + self.collusion * true)

    @property
    def accused(self) -> Fraction:
        """φ: bound of the probability that an audit convicts an honest node: by error, or by two of three bought workers."""
        bought = self.collusion**2 * (2 - self.collusion)
        return min(Fraction(1), self.alarms + bought)

    @property
    def stake_cost(self) -> Fraction:
        """What one unit of stake costs for each receipt."""
        return self.capital_rate / self.receipts_per_year


NAMES: Final = tuple(each.name for each in fields(Terms))


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise CounterfoilError(Code.INVALID_ARGUMENT, otherwise)
