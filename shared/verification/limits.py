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
    ASKED_A_DAY = "asked-a-day"
    TENANT_A_DAY = "tenant-a-day"
    AUTHORITY_A_DAY = "authority-a-day"


_CODES: Mapping[Rule, Code] = {
    Rule.SECOND_SEAL: Code.FORK,
    Rule.RATE: Code.INVALID_ARGUMENT,
    Rule.FLOOR: Code.INVALID_ARGUMENT,
    Rule.RELEASES_A_DAY: Code.QUOTA,
    Rule.FLOOR_A_DAY: Code.QUOTA,
    Rule.WHOLE_A_DAY: Code.QUOTA,
    Rule.ASKED_A_DAY: Code.QUOTA,
    Rule.TENANT_A_DAY: Code.QUOTA,
    Rule.AUTHORITY_A_DAY: Code.QUOTA,
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
class Released:
    """The releases of the last 24 hours, before one more."""

    by_kind: Mapping[DisclosureReason, int]
    """By the rule that draws the receipt (DRAW, FLOOR or WHOLE), or TENANT."""
    of_tenant: int = 0
    """About receipts of the same tenant."""
    of_authority: int = 0
    """For requests signed with the same key of the authority."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_kind.values())


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
    max_tenant_per_day: int = 5_000
    """Releases about one tenant's receipts."""
    max_authority_per_day: int = 10_000
    """Releases for requests under one key of the authority."""
    max_asked_per_day: int = 1_000
    """Releases that tenants asked for."""

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

    def check_day(self, drawn_by: DisclosureReason, released: Released) -> None:
        """Refuse one more release, given those of the last 24 hours; `drawn_by` is DRAW, FLOOR, WHOLE or TENANT."""
        rules = [
            (Rule.RELEASES_A_DAY, self.max_releases_per_day, released.total),
            (Rule.TENANT_A_DAY, self.max_tenant_per_day, released.of_tenant),
            (Rule.AUTHORITY_A_DAY, self.max_authority_per_day, released.of_authority),
        ]
        count = released.by_kind.get(drawn_by, 0)
        if drawn_by is DisclosureReason.FLOOR:
            rules.append((Rule.FLOOR_A_DAY, self.max_floor_per_day, count))
        elif drawn_by is DisclosureReason.WHOLE:
            rules.append((Rule.WHOLE_A_DAY, self.max_whole_per_day, count))
        elif drawn_by is DisclosureReason.TENANT:
            rules.append((Rule.ASKED_A_DAY, self.max_asked_per_day, count))
        for rule, most, made in rules:
            if made >= most:
                raise InsistenceError(
                    rule,
                    f"this custodian has made {made} such releases in 24 hours, which is its limit",
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
