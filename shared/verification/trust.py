"""Whom a verifier believes: one record of pinned keys by role, for every check in this package."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Self

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cose import SignedStatement, parse_statement
from shared.statements.disclosures import (
    AuditRequest,
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
    ShareReport,
)
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.statements.erasures import Erasure
from shared.statements.identities import Holder
from shared.statements.keys import KeyBundle, Revocation
from shared.statements.orders import Order
from shared.statements.periods import PeriodSeal
from shared.statements.ratecards import RateCard
from shared.statements.seals import TenantSeal
from shared.statements.verdicts import Verdict
from shared.translog.policy import LogPolicy
from shared.verification.identities import KeyHistory, Logged, key_history

Pins = Mapping[str, Collection[bytes]]
"""Ed25519 public keys (32 bytes) by the name under which they sign."""
AUTHORITY: Final = "authority"
"""The audit authority's name if a configuration gives its keys without one."""


class Role(StrEnum):
    """The capacity in which somebody signs."""

    OPERATOR = "operator"
    TENANT = "tenant"
    AUTHORITY = "authority"
    WORKER = "worker"
    PARTY = "party"
    """A witness or custodian: what it signs for the beacon and, if it is a custodian, its disclosure releases and
    escrow reports."""
    LOG = "log"
    """The log itself, under its origin: COSE Receipts."""


SIGNED_BY: Final[Mapping[str, Role]] = {
    KeyBundle.TYPE: Role.OPERATOR,
    Revocation.TYPE: Role.OPERATOR,
    RateCard.TYPE: Role.OPERATOR,
    Order.TYPE: Role.TENANT,
    AuditRequest.TYPE: Role.TENANT,
    EpochOpen.TYPE: Role.AUTHORITY,
    EpochSeal.TYPE: Role.AUTHORITY,
    Draw.TYPE: Role.AUTHORITY,
    TenantSeal.TYPE: Role.AUTHORITY,
    Erasure.TYPE: Role.AUTHORITY,
    PeriodSeal.TYPE: Role.AUTHORITY,
    DisclosureRequest.TYPE: Role.AUTHORITY,
    BeaconCommitment.TYPE: Role.PARTY,
    BeaconReveal.TYPE: Role.PARTY,
    DisclosureRelease.TYPE: Role.PARTY,
    EscrowReport.TYPE: Role.PARTY,
    ShareReport.TYPE: Role.WORKER,
    Verdict.TYPE: Role.WORKER,
}
"""Who signs which type of statement. A receipt is signed with the key of the key bundle that it names."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a verifier supplies itself; nothing in it comes from what is checked."""

    log: LogPolicy | None = None
    """The log's keys and the quorum of witnesses. None: those supplied with what is checked are believed."""
    pins: Mapping[Role, Pins] = field(default_factory=dict)
    """Keys by role and name. Nothing is known about an absent role: its keys are believed on the word of the party that
    presents them."""
    histories: Mapping[tuple[Role, str], KeyHistory] = field(default_factory=dict)
    """What the log has made of pinned keys, for identities of which it is known."""

    @classmethod
    def of(
        cls,
        log: LogPolicy | None = None,
        *,
        authority: bytes | None = None,
        parties: Mapping[str, bytes] | None = None,
        workers: Mapping[str, bytes] | None = None,
        operators: Mapping[str, bytes] | None = None,
        tenants: Mapping[str, bytes] | None = None,
    ) -> Self:
        """Return the trust in these keys, one per name. Nothing is known about a role that is None; nobody is believed in a
        role that is empty."""
        named = {
            Role.AUTHORITY: None if authority is None else {AUTHORITY: authority},
            Role.PARTY: parties,
            Role.WORKER: workers,
            Role.OPERATOR: operators,
            Role.TENANT: tenants,
        }
        pins = {
            role: {name: (key,) for name, key in keys.items()}
            for role, keys in named.items()
            if keys is not None
        }
        return cls(log, pins)

    @property
    def origin(self) -> str:
        """The origin line of the log; CONFIGURATION without a log."""
        return self.required_log().logs[0].name

    def required_log(self) -> LogPolicy:
        """Return the log policy; CONFIGURATION without one, for checks that must not take a stranger's."""
        if self.log is None:
            raise CounterfoilError(Code.CONFIGURATION, "no log is trusted")
        return self.log

    def keys(self, role: Role) -> frozenset[bytes]:
        """Return all keys pinned for a role, under any name."""
        return frozenset(key for keys in self.pins.get(role, {}).values() for key in keys)

    def named(self, role: Role, name: str) -> frozenset[bytes]:
        """Return the keys pinned for a name in a role."""
        return frozenset(self.pins.get(role, {}).get(name, ()))

    def authority_key(self, kid: bytes, what: str) -> bytes:
        """Return the audit authority's key with this key id; UNTRUSTED_KEY says that `what` is not signed with such a key."""
        key = with_key_id(self.keys(Role.AUTHORITY), kid)
        if key is None:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY, f"{what} is not signed with a key of the audit authority"
            )
        return key

    def key(
        self, role: Role, kid: bytes, name: str, offered: Sequence[bytes], *, pinned: bool = True
    ) -> tuple[bytes, str]:
        """Return the key with this key id for a name in a role, and in words whose word it is; otherwise UNTRUSTED_KEY.
        A name with pinned keys has no others. A name without any is refused if the role's keys are known, unless
        `pinned` is false; otherwise a key `offered` with what is checked counts.
        """
        own = self.named(role, name)
        if (key := with_key_id(own, kid)) is not None:
            return key, f"{name}, by a key that you trust"
        if own or (pinned and role in self.pins):
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                f"the key with id {kid.hex()} is not one that you trust for {name}",
            )
        if (key := with_key_id(offered, kid)) is not None:
            return key, f"{name}, by the key {key.hex()} on the bundle's word"
        raise CounterfoilError(Code.UNTRUSTED_KEY, f"the bundle has no key with id {kid.hex()}")

    def continued(self, histories: Iterable[KeyHistory]) -> "Trust":
        """Return this trust with identities' keys as the log continues them: each key they ever had is one of theirs, for what
        the log has in its time (`check_place`, `check_order`).
        """
        known = {(Role(history.role.value), history.name): history for history in histories}
        pins = {role: dict(names) for role, names in self.pins.items()}
        for (role, name), history in known.items():
            pins.setdefault(role, {})[name] = history.ever
        return replace(self, pins=pins, histories={**self.histories, **known})

    def followed(self, shown: Iterable[Logged]) -> "Trust":
        """Return this trust continued by statements about identity keys that the log has. Those about a name without keys here
        change nothing: a chain begins with what the verifier brings.
        """
        about: dict[tuple[Role, str], list[Logged]] = {}
        for item in shown:
            role, _, name = parse_statement(item.statement).subject.partition("/")
            if role in (Role.OPERATOR, Role.TENANT):
                about.setdefault((Role(role), name), []).append(item)
        histories = []
        for (role, name), items in about.items():
            known = self.histories.get((role, name))
            if known is not None:
                histories.append(known.continued(items))
            elif pinned := self.named(role, name):
                histories.append(key_history(Holder(role.value), name, pinned, items))
        return self.continued(histories)

    def check_place(self, role: Role, name: str, kid: bytes, index: int) -> None:
        """UNTRUSTED_KEY if the log has a statement at an `index` at which its signer's key was not one of the name's."""
        if (history := self.histories.get((role, name))) is not None:
            history.key(kid, index)

    def check_order(self, tenant: str, kid: bytes, started: int) -> None:
        """UNTRUSTED_KEY if an order's key had ended when work on it began (ms)."""
        if (history := self.histories.get((Role.TENANT, tenant))) is not None:
            history.order_key(kid, started)

    def with_signers(self, signers: Pins) -> "Trust":
        """Return this trust with keys of names whose role is not given: each counts in every role, and no other name does."""
        if not signers:
            return self
        pins = {role: _joined(self.pins.get(role, {}), signers) for role in Role}
        return replace(self, pins=pins)


def with_key_id(keys: Iterable[bytes], kid: bytes) -> bytes | None:
    """Return the key that a key id stands for, if it is among these."""
    return next((key for key in keys if key_id(key) == kid), None)


def key_for(statement: SignedStatement, keys: Collection[bytes]) -> bytes:
    """Return the one of `keys` that a statement names, or any of them, with which its signature does not verify."""
    return with_key_id(keys, statement.kid) or min(keys)


def _joined(one: Pins, other: Pins) -> Pins:
    return {
        name: frozenset((*one.get(name, ()), *other.get(name, ()))) for name in {**one, **other}
    }
