"""What a monitor learns from a public statement: whom it concerns, and whether pinned keys signed it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from audit_layer.monitor.findings import Finding, FoundError, Kind
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import Payload, SignedStatement, parse_statement, verify_signature
from shared.statements.epochs import EpochSeal
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd, identity
from shared.statements.keys import KeyBundle, Revocation
from shared.statements.ratecards import RateCard
from shared.verification.epoch_record import TYPES, epoch_of
from shared.verification.identities import KeyHistory, Logged, key_history
from shared.verification.trust import Pins, Role, Trust

P = TypeVar("P", bound=Payload)
IDENTITY_TYPES: Final[Mapping[str, type[IdentityKey | IdentityKeyEnd]]] = {
    IdentityKey.TYPE: IdentityKey,
    IdentityKeyEnd.TYPE: IdentityKeyEnd,
}
OPERATOR_TYPES: Final = frozenset({KeyBundle.TYPE, Revocation.TYPE, RateCard.TYPE})
"""Statements that an operator's identity key signs."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Whose statements are reported, and which keys may sign for whom."""

    operators: frozenset[str] = frozenset()
    models: frozenset[bytes] = frozenset()
    trust: Trust = field(default_factory=Trust)
    """Keys that may sign in the name of operators, which are then watched too; and those of the audit authority and of
    beacon parties, with which draws are checked."""

    @property
    def pinned(self) -> Pins:
        """Operators' keys by name."""
        return self.trust.pins.get(Role.OPERATOR, {})


@dataclass(frozen=True, slots=True)
class KnownBundle:
    """A key bundle met earlier: later statements name it by its entry."""

    operator: str
    models: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A statement as far as the monitor understands it."""

    statement: SignedStatement
    operators: frozenset[str]
    """Whom it concerns."""
    models: frozenset[bytes]
    summary: str
    bundle: KnownBundle | None = None
    """What to remember under the statement's entry."""


def open_raw(raw: bytes, entry: bytes, kind: str | None) -> SignedStatement:
    """Parse a statement that is shown as the one behind `entry`; FoundError when it cannot be."""
    try:
        statement = parse_statement(raw, expected=kind)
        statement.payload  # noqa: B018  # what cannot be decoded is not a statement either
    except CounterfoilError as error:
        raise FoundError(_wrong(entry, f"cannot be read: {error.detail}")) from error
    if statement.entry != entry:
        raise FoundError(_wrong(entry, f"has the entry {statement.entry.hex()}"))
    return statement


def read_payload(cls: type[P], statement: SignedStatement) -> P:
    """Return a statement's payload as the class of its type; FoundError when it is not one."""
    try:
        return statement.read(cls)
    except CounterfoilError as error:
        raise FoundError(_wrong(statement.entry, f"cannot be read: {error.detail}")) from error


def read_epoch(statement: SignedStatement) -> int | None:
    """Return the epoch of a statement of the selection, None for others; FoundError when it cannot be read."""
    if statement.type not in TYPES:
        return None
    try:
        return epoch_of(statement.raw)
    except CounterfoilError as error:
        raise FoundError(_wrong(statement.entry, f"cannot be read: {error.detail}")) from error


def understand(statement: SignedStatement, known: Mapping[bytes, KnownBundle]) -> Seen:
    """Return whom a public statement concerns; FoundError when its payload is not one of its type."""
    if statement.type == KeyBundle.TYPE:
        new = read_payload(KeyBundle, statement)
        bundle = KnownBundle(new.operator, new.model_roots)
        return Seen(
            statement,
            frozenset({new.operator}),
            frozenset(new.model_roots),
            f"key bundle of {new.operator}/{new.node} at {new.endpoint}",
            bundle,
        )
    if statement.type == Revocation.TYPE:
        ended = read_payload(Revocation, statement)
        found = known.get(ended.bundle)
        return Seen(
            statement,
            frozenset({found.operator} if found else {statement.issuer}),
            frozenset(found.models if found else ()),
            f"revocation of {ended.bundle.hex()}: {ended.reason}",
        )
    if statement.type == RateCard.TYPE:
        card = read_payload(RateCard, statement)
        return Seen(
            statement,
            frozenset({card.operator}),
            frozenset(price.model_root for price in card.prices),
            f"rate card {card.name!r} of {card.operator} in {card.currency}",
        )
    if statement.type in IDENTITY_TYPES:
        change = read_payload(IDENTITY_TYPES[statement.type], statement)
        verb = "has another" if statement.type == IdentityKey.TYPE else "ends its"
        return Seen(
            statement,
            frozenset({change.name} if change.role is Holder.OPERATOR else ()),
            frozenset(),
            f"{change.name} {verb} identity key {change.key.hex()}",
        )
    if statement.type == EpochSeal.TYPE:
        seal = read_payload(EpochSeal, statement)
        bundles = [known[entry] for entry in seal.nodes if entry in known]
        return Seen(
            statement,
            frozenset(item.operator for item in bundles),
            frozenset(model for item in bundles for model in item.models),
            f"epoch seal {seal.epoch} over [{seal.first}, {seal.size})",
        )
    return Seen(statement, frozenset(), frozenset(), f"{statement.type} of {statement.issuer}")


def concerns(seen: Seen, watch: Watch) -> bool:
    """Whether somebody watches for it."""
    watched = watch.operators | watch.pinned.keys()
    return bool(seen.operators & watched or seen.models & watch.models)


def is_about_keys(seen: Seen, watch: Watch) -> bool:
    """Whether a statement changes the keys of a pinned operator."""
    return seen.statement.type in IDENTITY_TYPES and bool(seen.operators & watch.pinned.keys())


def check_key(seen: Seen, watch: Watch, index: int, identities: Sequence[Logged]) -> Finding | None:
    """Return a finding when a pinned operator's statement, at `index`, is not signed by a key that it had there: one that is
    pinned, or to which those lead by the statements about its `identities` so far (this one included).
    """
    statement = seen.statement
    pinned = [name for name in sorted(seen.operators) if name in watch.pinned]
    if statement.type not in OPERATOR_TYPES | IDENTITY_TYPES.keys() or not pinned:
        return None
    name = pinned[0]
    history = key_history(Holder.OPERATOR, name, watch.pinned[name], _of(name, identities))
    if statement.type in IDENTITY_TYPES:
        return _check_change(statement, index, history)
    try:
        verify_signature(statement, history.key(statement.kid, index))
    except CounterfoilError as error:
        if error.code is not Code.UNTRUSTED_KEY:
            return _about(Kind.SIGNATURE, statement, f"is wrongly signed in the name of {name}")
        return _about(
            Kind.KEY,
            statement,
            f"of {name} is signed by the key {statement.kid.hex()}, which is not pinned for it, or to which no pinned"
            " key leads, or which had ended",
        )
    return None


def _check_change(statement: SignedStatement, index: int, history: KeyHistory) -> Finding | None:
    """Return a finding when a change of keys does not count, or when two holders of one key contend."""
    for ignored in history.ignored:
        if ignored.index == index:
            return _about(
                Kind.KEY, statement, f"of {history.name} does not count: {ignored.problem}"
            )
    for life in history.contested():
        if life.ended == index:
            return _about(
                Kind.KEY,
                statement,
                f"of {history.name} ends {life.key.hex()}, a key of another branch: somebody else may hold one of its keys",
            )
    return None


def _of(name: str, identities: Sequence[Logged]) -> list[Logged]:
    subject = identity(Holder.OPERATOR, name)
    return [item for item in identities if parse_statement(item.statement).subject == subject]


def _about(kind: Kind, statement: SignedStatement, problem: str) -> Finding:
    return Finding(
        kind,
        statement.entry.hex(),
        f"the {statement.type} {statement.entry.hex()} {problem}",
        {"statement": statement.raw.hex()},
    )


def _wrong(entry: bytes, problem: str) -> Finding:
    return Finding(
        Kind.STATEMENT, entry.hex(), f"the statement shown for entry {entry.hex()} {problem}"
    )
