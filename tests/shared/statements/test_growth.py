"""How statements are extended (protocol §2.2): older and newer verifiers read each other's logs, and intake refuses the unknown."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.statements.cose import open_as, sign
from shared.statements.schema import Name, Statement, Uint

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass(frozen=True, slots=True)
class First(Statement):
    """A type as first defined."""

    TYPE: ClassVar[str] = "growing"

    name: Name

    @property
    def subject(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Second(First):
    """The same type with later fields: one that may be ignored, one that may not, one that is now mandatory."""

    CRITICAL: ClassVar[frozenset[str]] = frozenset({"limit"})
    NEEDED: ClassVar[frozenset[str]] = frozenset({"grade"})

    note: Name | None = None
    limit: Uint | None = None
    grade: Uint | None = None


def read(cls, statement: bytes, *, new: bool = False):
    return open_as(cls, statement, public_bytes(KEY), new=new)[0]


def code(cls, payload: dict, *, new: bool = False) -> Code:
    with pytest.raises(CounterfoilError) as caught:
        cls.from_payload(payload, new=new)
    return caught.value.code


@given(st.builds(Second, st.just("a"), st.none() | st.just("b"), st.none(), st.none() | st.just(7)))
def test_an_older_verifier_reads_what_it_knows_and_the_entry_stays_that_of_all_bytes(newer):
    raw = sign(newer, key=KEY, issuer="somebody")
    older, statement = open_as(First, raw, public_bytes(KEY))
    assert older == First("a")
    assert statement.raw == raw


@given(st.integers(0, 2**63 - 1))
def test_an_older_verifier_refuses_what_it_must_understand_as_unsupported(limit):
    newer = Second("a", limit=limit)
    assert newer.to_payload()["crit"] == ["limit"]
    assert code(First, newer.to_payload()) is Code.UNSUPPORTED
    assert read(Second, sign(newer, key=KEY, issuer="somebody")) == newer


def test_a_newer_verifier_reads_what_an_older_version_signed():
    assert read(Second, sign(First("a"), key=KEY, issuer="somebody")) == Second("a")


def test_intake_knows_every_field_and_requires_those_that_are_needed():
    grown = Second("a", "b", 3, 7)
    assert read(Second, sign(grown, key=KEY, issuer="somebody"), new=True) == grown
    assert code(Second, Second("a", "b", 3).to_payload(), new=True) is Code.MALFORMED
    assert code(Second, First("a").to_payload(), new=True) is Code.MALFORMED
    assert code(First, Second("a", "b").to_payload(), new=True) is Code.MALFORMED
    assert First.from_payload(First("a").to_payload(), new=True) == First("a")


@pytest.mark.parametrize("new", [False, True])
def test_a_critical_field_is_named_and_nothing_else_is(new):
    payload = Second("a", "b", 3, 7).to_payload()
    unnamed = {name: value for name, value in payload.items() if name != "crit"}
    assert code(Second, unnamed, new=new) is Code.MALFORMED
    for crit in (["note"], ["limit", "note"], [], None, ["limit", "limit"], [b"limit"], {}):
        assert code(Second, {**payload, "crit": crit}, new=new) is Code.MALFORMED


def test_what_is_signed_as_critical_and_absent_is_malformed_before_it_is_unsupported():
    assert code(First, {**First("a").to_payload(), "crit": ["limit"]}) is Code.MALFORMED
