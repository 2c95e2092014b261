"""Which keys an identity has, as a function of the log (protocol §2.3). Pure.

An identity's pinned keys are the beginning; statements in the log continue them, in the log's order. What counts is the index
in the log alone, never a time that a signer writes. A statement that does not count changes nothing, for anybody.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id
from shared.statements.cose import SignedStatement, parse_statement, verify_signature
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd, check_possession

END_SKEW_MS: Final = 5 * 60_000
"""How far the time of an end may be from the log's clock when it is taken in."""
GRACE_MS: Final = 24 * 3_600_000
"""How long after a tenant's key has ended the log takes receipts for what it ordered before."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A statement, and its index in the log, for which the caller has a proof."""

    index: int
    statement: bytes


@dataclass(frozen=True, slots=True)
class KeyLife:
    """One key, from the statement that adds it to the one that ends it."""

    key: bytes
    added: int | None = None
    """Log index of the `identity-key`; None: it is pinned."""
    added_by: bytes | None = None
    """The key that signed it."""
    ended: int | None = None
    """Log index of the `identity-key-end`; None: it is live."""
    ended_by: bytes | None = None
    ended_at: int | None = None
    """The time (ms) in it, which the log held against its clock."""
    reason: str | None = None

    def had(self, index: int | None) -> bool:
        """Whether the key counts for what the log has at `index`; None: for what comes now."""
        if index is None:
            return self.ended is None
        return (self.added is None or self.added < index) and (
            self.ended is None or index < self.ended
        )


@dataclass(frozen=True, slots=True)
class Ignored:
    """A statement that does not count, and why."""

    index: int
    entry: bytes
    problem: str


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """All keys that an identity ever had."""

    role: Holder
    name: str
    lives: tuple[KeyLife, ...]
    ignored: tuple[Ignored, ...] = field(default=())
    logged: tuple[Logged, ...] = field(default=())
    """The statements from which this follows, by index."""

    @property
    def pinned(self) -> frozenset[bytes]:
        """The keys with which it begins."""
        return frozenset(life.key for life in self.lives if life.added is None)

    def continued(self, logged: Iterable[Logged]) -> "KeyHistory":
        """Return this history with more statements of the log, wherever in the log they are."""
        return key_history(self.role, self.name, self.pinned, (*self.logged, *logged))

    @property
    def live(self) -> frozenset[bytes]:
        """The keys that the identity has now."""
        return frozenset(life.key for life in self.lives if life.ended is None)

    @property
    def ever(self) -> frozenset[bytes]:
        """Every key that it has or had: for statements that are known to have been in the log in time."""
        return frozenset(life.key for life in self.lives)

    def life(self, kid: bytes) -> KeyLife | None:
        """Return the life of the key with this key id."""
        return next((life for life in self.lives if key_id(life.key) == kid), None)

    def key(self, kid: bytes, index: int | None = None) -> bytes:
        """Return the key with this key id, which signed what the log has at `index` (None: what comes now).

        UNTRUSTED_KEY if the identity has no such key, had it only later, or had ended it before.
        """
        life = self._known(kid)
        if not life.had(index):
            when = "is added only later" if life.ended is None else f"ended: {life.reason}"
            raise self._refused(f"the key {kid.hex()[:16]}… of {self.name} {when}")
        return life.key

    def order_key(self, kid: bytes, started: int) -> bytes:
        """Return the key with this key id, which signed an order on which work began at `started` (ms).

        An order that a node had accepted before its key ended stays good: ending a key disowns nothing. UNTRUSTED_KEY
        otherwise.
        """
        life = self._known(kid)
        if life.ended_at is not None and started >= life.ended_at + END_SKEW_MS:
            raise self._refused(f"the key {kid.hex()[:16]}… of {self.name} ended: {life.reason}")
        return life.key

    def contested(self) -> tuple[KeyLife, ...]:
        """Return the keys that were ended by a key on another branch: neither by one that led to them, nor by one to which
        they led. Two holders of one key, such as its owner and a thief, then end each other's keys.
        """
        return tuple(
            life
            for life in self.lives
            if life.ended_by is not None
            and life.key not in self._line(life.ended_by)
            and life.ended_by not in self._line(life.key)
        )

    def _line(self, key: bytes) -> frozenset[bytes]:
        """Return a key, and those that led to it."""
        adders = {life.key: life.added_by for life in self.lives}
        line: list[bytes] = []
        at: bytes | None = key
        while at is not None:  # who adds a key had it before: this ends
            line.append(at)
            at = adders.get(at)
        return frozenset(line)

    def _known(self, kid: bytes) -> KeyLife:
        life = self.life(kid)
        if life is None:
            raise self._refused(f"{self.name} has no {self.role} key {kid.hex()[:16]}…")
        return life

    @staticmethod
    def _refused(problem: str) -> CounterfoilError:
        return CounterfoilError(Code.UNTRUSTED_KEY, problem)


def key_history(
    role: Holder, name: str, pinned: Collection[bytes], logged: Iterable[Logged]
) -> KeyHistory:
    """Return an identity's keys: the pinned ones, continued by statements of the log in any order, each once."""
    history = KeyHistory(role, name, tuple(KeyLife(key) for key in sorted(set(pinned))))
    ordered = {item.index: item for item in logged}
    for index in sorted(ordered):
        history = _continued(history, ordered[index])
    return replace(history, logged=tuple(ordered[index] for index in sorted(ordered)))


def _continued(history: KeyHistory, item: Logged) -> KeyHistory:
    try:
        statement = parse_statement(item.statement)
        lives = next_lives(history, statement, item.index)
    except CounterfoilError as error:
        entry = b"" if error.code is Code.MALFORMED else parse_statement(item.statement).entry
        ignored = Ignored(item.index, entry, error.detail)
        return replace(history, ignored=(*history.ignored, ignored))
    return replace(history, lives=lives)


def next_lives(
    history: KeyHistory, statement: SignedStatement, index: int | None = None
) -> tuple[KeyLife, ...]:
    """Return the keys after one more statement, at `index` (None: that is not in the log yet); raise why it does not count.

    It counts when a live key of this identity signed it, and it adds a key that the identity never had, with that key's proof
    of possession; or ends a live key that is not the last. MALFORMED, UNTRUSTED_KEY, BAD_SIGNATURE or CONFLICT.
    """
    signer = history.key(statement.kid, index)
    verify_signature(statement, signer)
    place = -1 if index is None else index
    if statement.type == IdentityKey.TYPE:
        added = statement.read(IdentityKey)
        _check_identity(history, added, statement)
        if history.life(key_id(added.key)) is not None:
            raise CounterfoilError(
                Code.CONFLICT,
                f"the key {key_id(added.key).hex()[:16]}… has been one of {history.name} before",
                remedy="Make a new key: one that was ended never comes back.",
            )
        check_possession(added, statement.kid)
        return (*history.lives, KeyLife(added.key, place, signer))
    ending = statement.read(IdentityKeyEnd)
    _check_identity(history, ending, statement)
    life = history.life(key_id(ending.key))
    if life is None or not life.had(index):
        raise CounterfoilError(
            Code.CONFLICT, f"{history.name} has no live key {key_id(ending.key).hex()[:16]}…"
        )
    if history.live == {ending.key}:
        raise CounterfoilError(
            Code.CONFLICT,
            f"this is the last key of {history.name}: nobody could continue the chain",
            remedy="Add another key first (`rotate`). Whoever runs the log can also disable the party.",
        )
    ended = replace(life, ended=place, ended_by=signer, ended_at=ending.at, reason=ending.reason)
    return tuple(ended if item.key == ending.key else item for item in history.lives)


def _check_identity(
    history: KeyHistory, value: IdentityKey | IdentityKeyEnd, statement: SignedStatement
) -> None:
    if (value.role, value.name, statement.issuer) != (history.role, history.name, history.name):
        raise CounterfoilError(
            Code.UNTRUSTED_KEY,
            f"the {statement.type} is about {value.subject[:80]!r} and issued by {statement.issuer[:80]!r}, but its"
            f" signer is {history.role}/{history.name}",
        )
