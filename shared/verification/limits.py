"""A custodian's own terms: what it insists on, whatever the authority says (protocol §6.2.1). Pure.

The authority chooses the rate, the floor and the epochs' length, and claims which reveals are missing: without these
rules it could have everything disclosed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shared.envelope.hpke import hpke_key_id
from shared.runtime.errors import Code, CounterfoilError
from shared.selection.epoch import Epoch
from shared.statements.disclosures import DisclosureReason

DAY_MS = 86_400_000


class Rule(StrEnum):
    """The rules, named as in the protocol."""

    OWN_COMMITMENT = "own-commitment"
    OWN_REVEAL = "own-reveal"
    SECOND_SEAL = "second-seal"
    RATE = "rate"
    FLOOR = "floor"
    RELEASES_A_DAY = "releases-a-day"
    FLOOR_A_DAY = "floor-a-day"
    WHOLE_A_DAY = "whole-a-day"


_CODES: Mapping[Rule, Code] = {
    Rule.SECOND_SEAL: Code.FORK,
    Rule.RATE: Code.INVALID_ARGUMENT,
    Rule.FLOOR: Code.INVALID_ARGUMENT,
    Rule.RELEASES_A_DAY: Code.QUOTA,
    Rule.FLOOR_A_DAY: Code.QUOTA,
    Rule.WHOLE_A_DAY: Code.QUOTA,
}
_SHOWN: Mapping[Rule, str] = {
    Rule.OWN_COMMITMENT: "open",
    Rule.OWN_REVEAL: "draw",
    Rule.SECOND_SEAL: "seal",
    Rule.RATE: "open",
    Rule.FLOOR: "open",
}


class InsistenceError(CounterfoilError):
    """A refusal, by one of the rules, of something that the authority has signed and the log holds.

    The code is FORK for a second seal, INVALID_ARGUMENT for rate and floor, QUOTA (retryable) for the daily
    limits, otherwise BAD_PROOF.
    """

    def __init__(self, rule: Rule, detail: str) -> None:
        super().__init__(_CODES.get(rule, Code.BAD_PROOF), detail, metadata={"rule": rule.value})
        self.rule = rule
        self.shown = _SHOWN.get(rule, "request")
        """The field of the release case whose statement, with its proof, shows what was requested."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a custodian accepts. A day is any 24 hours."""

    max_rate_ppm: int = 100_000
    max_floor: int = 10
    max_releases_per_day: int = 10_000
    max_floor_per_day: int = 5_000
    """Releases of receipts that only the floor draws."""
    max_whole_per_day: int = 1_000
    """Releases of epochs that are audited whole."""

    def check_epoch(self, epoch: Epoch) -> None:
        """Refuse an epoch whose open statement asks for too much."""
        opened = epoch.opened
        if opened.rate_ppm > self.max_rate_ppm:
            raise InsistenceError(
                Rule.RATE,
                f"epoch {opened.epoch} draws {opened.rate_ppm} in a million;"
                f" this custodian accepts at most {self.max_rate_ppm}",
            )
        floor = opened.strict_floor or opened.floor
        if floor > self.max_floor:
            raise InsistenceError(
                Rule.FLOOR,
                f"epoch {opened.epoch} has a floor of {floor};"
                f" this custodian accepts at most {self.max_floor}",
            )

    def check_day(
        self, drawn_by: DisclosureReason, released: Mapping[DisclosureReason, int]
    ) -> None:
        """Refuse one more release of this kind, given those of the last 24 hours, counted by kind.

        A kind is the rule by which the receipt is drawn: DRAW, FLOOR or WHOLE.
        """
        for rule, most, count in (
            (Rule.RELEASES_A_DAY, self.max_releases_per_day, sum(released.values())),
            (Rule.FLOOR_A_DAY, self.max_floor_per_day, released.get(DisclosureReason.FLOOR, 0)),
            (Rule.WHOLE_A_DAY, self.max_whole_per_day, released.get(DisclosureReason.WHOLE, 0)),
        ):
            of_this_rule = {
                Rule.FLOOR_A_DAY: DisclosureReason.FLOOR,
                Rule.WHOLE_A_DAY: DisclosureReason.WHOLE,
            }
            if of_this_rule.get(rule, drawn_by) is drawn_by and count >= most:
                raise InsistenceError(
                    rule,
                    f"this custodian has made {count} such releases in 24 hours, which is its limit",
                )


@dataclass(frozen=True, slots=True)
class Recipient:
    """A worker to whom a custodian may release."""

    name: str
    hpke_key: bytes

    @property
    def key_id(self) -> bytes:
        """Key id of its HPKE key."""
        return hpke_key_id(self.hpke_key)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a custodian's configuration says besides whom it trusts."""

    own: str
    """The name under which the custodian itself takes part in the beacon; its trust holds its key."""
    recipients: tuple[Recipient, ...]
    """The workers to whom it may release."""
    limits: Limits = field(default_factory=Limits)
