"""Tokens expire, say so, and are renewed. The clock is the test's."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from audit_layer.api.tokens import DAY_MS, LIFE_MS, LONGEST_LIFE_MS, OVERLAP_MS, Role, Tokens
from audit_layer.commands.audit import audit
from shared.codec.moment import now_ms, to_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import create_private
from shared.runtime.problems import EXPIRES_HEADER
from shared.runtime.tls import client_context
from tests.audit_layer.served import World
from tests.postgres import Database

NOW = 1_800_000_000_000


class Clock:
    """Milliseconds that only the test advances."""

    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(database: Database, clock: Clock) -> Tokens:
    return Tokens(database.engine("server"), clock=clock)


def refused(tokens: Tokens, token: str) -> CounterfoilError:
    with pytest.raises(CounterfoilError) as found:
        tokens.authenticate(token)
    assert found.value.code is Code.UNAUTHENTICATED
    return found.value


def test_a_token_is_accepted_until_the_millisecond_in_which_it_expires(
    tokens: Tokens, clock: Clock
):
    row, token = tokens.create(Role.AUDITOR)
    assert row.expires == NOW + LIFE_MS
    clock.now = row.expires - 1
    assert tokens.authenticate(token).role is Role.AUDITOR
    clock.now = row.expires
    error = refused(tokens, token)
    assert "expired on 2027-04-15" in error.detail
    assert f"token renew {row.id}" in str(error)
    assert error.metadata == {"expired": str(row.expires)}


def test_only_whoever_holds_a_token_learns_that_it_expired(tokens: Tokens, clock: Clock):
    row, token = tokens.create(Role.AUDITOR)
    clock.now = row.expires
    for stranger in ("A" * 43, token[:-1], token.swapcase(), ""):
        assert refused(tokens, stranger).detail == "the token is not valid"
    tokens.revoke(row.id)
    assert refused(tokens, token).detail == "the token is not valid"


@pytest.mark.parametrize(
    ("life_ms", "warned_before_ms"), [(LIFE_MS, 14 * DAY_MS), (4 * DAY_MS, DAY_MS)]
)
def test_a_token_says_that_it_expires_soon_but_not_earlier(
    tokens: Tokens, clock: Clock, life_ms: int, warned_before_ms: int
):
    row, token = tokens.create(Role.TENANT, "acme", life_ms=life_ms)
    clock.now = row.expires - warned_before_ms
    assert tokens.authenticate(token).expiring is None
    clock.now += 1
    assert tokens.authenticate(token).expiring == row.expires


def test_a_renewed_token_has_a_successor_of_its_kind_and_an_hour_left(tokens: Tokens, clock: Clock):
    row, old = tokens.create(Role.TENANT, "acme", name="dashboard")
    clock.now += DAY_MS
    successor, new = tokens.renew(row.id, life_ms=2 * LIFE_MS)
    assert successor.expires == clock.now + 2 * LIFE_MS
    access = tokens.authenticate(new)
    assert (access.role, access.scope, access.name) == (Role.TENANT, "acme", "dashboard")
    clock.now += OVERLAP_MS - 1
    assert tokens.authenticate(old).scope == "acme"
    clock.now += 1
    assert "expired" in refused(tokens, old).detail


def test_renewing_never_prolongs_the_old_token(tokens: Tokens, clock: Clock):
    row, old = tokens.create(Role.AUDITOR, life_ms=60_000)
    clock.now += 59_999
    tokens.renew(row.id)
    clock.now += 1
    refused(tokens, old)
    _, new = tokens.renew(row.id)
    refused(tokens, old)
    assert tokens.authenticate(new).role is Role.AUDITOR


def test_a_token_renewed_in_the_moment_of_its_making_is_still_stored(tokens: Tokens, clock: Clock):
    row, _ = tokens.create(Role.AUDITOR, life_ms=1000)
    clock.now -= 10 * DAY_MS
    tokens.renew(row.id)
    assert tokens.list()[0].expires == row.created + 1


def test_what_was_revoked_or_never_was_cannot_be_renewed(tokens: Tokens):
    row, _ = tokens.create(Role.AUDITOR)
    tokens.revoke(row.id)
    for token_id, code in ((row.id, Code.CONFLICT), (999, Code.NOT_FOUND)):
        with pytest.raises(CounterfoilError) as found:
            tokens.renew(token_id)
        assert found.value.code is code


@pytest.mark.parametrize("life_ms", [-1, 0, 999, LONGEST_LIFE_MS + 1])
def test_no_token_lives_longer_than_a_year(tokens: Tokens, life_ms: int):
    row, _ = tokens.create(Role.AUDITOR, life_ms=LONGEST_LIFE_MS)
    made: list[Any] = [
        lambda: tokens.create(Role.AUDITOR, life_ms=life_ms),
        lambda: tokens.renew(row.id, life_ms=life_ms),
    ]
    for make in made:
        with pytest.raises(CounterfoilError) as found:
            make()
        assert found.value.code is Code.INVALID_ARGUMENT
    assert len(tokens.list()) == 1


async def test_answers_warn_before_a_token_expires_and_commands_pass_it_on(
    world: World, tmp_path: Path
):
    with world.core() as core:
        _, fresh = core.tokens.create(Role.AUDITOR)
        old = Tokens(core.engine, clock=lambda: now_ms() - LIFE_MS + DAY_MS)
        row, late = old.create(Role.AUDITOR)
    async with httpx.AsyncClient(
        base_url=world.url, verify=client_context(world.ca), trust_env=False
    ) as client:
        for token, expected in ((fresh, None), (late, to_rfc3339(row.expires))):
            answer = await client.get("/v1/status", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 200
            assert answer.headers.get(EXPIRES_HEADER) == expected
    file = tmp_path / "auditor.token"
    create_private(file, late.encode())
    arguments = ["verdicts", "--url", world.url, "--token-file", str(file), "--ca", str(world.ca)]
    shown = await asyncio.to_thread(CliRunner().invoke, audit, arguments)
    assert shown.exit_code == 0
    assert f"expires on {to_rfc3339(row.expires)}" in shown.stderr
    assert "token renew" in shown.stderr
