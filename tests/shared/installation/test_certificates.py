"""Certificates of `up`: renewed, and reported, while everything runs."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from shared.installation import platform
from shared.installation.commands import Commands
from shared.installation.credentials import Credentials
from shared.installation.layout import CUSTODIANS, NodePlan, Plan
from shared.runtime.certificates import life_of
from shared.runtime.party import party_in
from shared.runtime.tls import LIFE


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def credentials(tmp_path, said) -> Credentials:
    commands = Commands(lambda who, what: said.append((who, what)))
    return Credentials(Plan(tmp_path, (NodePlan("node-a", "operator-a"),)), commands)


def test_what_is_near_its_end_is_renewed_and_reported_and_nothing_else_is(credentials, said):
    now = datetime.now(UTC)
    files = credentials.certificates(now)
    first = {name: life_of(its.cert) for name, its in files.items()}
    assert set(files) == {"audit", "witness-1", *CUSTODIANS, "node-a"}
    named = {
        name: party_in(its.cert.read_bytes())
        for name, its in credentials.party_certificates(now).items()
    }
    assert {name: str(party) for name, party in named.items()} == {
        "audit": "audit counterfoil.local/log",
        "worker-a": "worker worker-a",
        "worker-b": "worker worker-b",
        "node-a": "node operator-a/node-a",
    }
    credentials.renew(now + LIFE / 2)
    assert said == []
    credentials.renew(now + LIFE - timedelta(days=20))
    assert {who for who, _ in said} == {*files, *named}
    for name, its in credentials.certificates(now + LIFE - timedelta(days=20)).items():
        before, after = first[name], life_of(its.cert)
        assert before is not None
        assert after is not None
        assert after.end > before.end
        assert (name, f"certificate renewed until {after.end:%Y-%m-%d}") in said


async def test_a_renewal_that_fails_is_reported_and_retried(monkeypatch):
    """Two rounds: the first fails, the second ends the loop."""
    monkeypatch.setattr(platform, "RENEW_S", 0)
    told: list[str] = []

    class Ended(Exception):  # noqa: N818  # it is not an error
        pass

    class Failing:
        rounds = 0

        async def renew_tokens(self) -> None:
            raise AssertionError("not reached")

        def renew(self) -> None:
            self.rounds += 1
            if self.rounds > 1:
                raise Ended
            raise OSError(28, "No space left on device")

    with pytest.raises(Ended):
        await platform._renew(Failing(), lambda _who, what: told.append(what))  # type: ignore[arg-type]  # a double
    assert len(told) == 1
    assert "No space left" in told[0]


async def test_tokens_are_renewed_after_two_thirds_of_their_life(credentials, said, monkeypatch):
    asked: list[tuple[str, ...]] = []
    listed = [
        {"id": 1, "role": "auditor", "revoked": None},
        {"id": 2, "role": "finance", "revoked": None},
        {"id": 3, "role": "auditor", "revoked": None},
        {"id": 4, "role": "auditor", "revoked": 1},
    ]

    async def run(*arguments: object) -> str:
        asked.append(tuple(map(str, arguments)))
        return ""

    async def listing(*_arguments: object) -> object:
        return listed

    monkeypatch.setattr(credentials._commands, "run", run)
    monkeypatch.setattr(credentials._commands, "json", listing)
    auditor, finance = (credentials.token(role) for role in ("auditor", "finance"))
    auditor.parent.mkdir(parents=True)
    for file in (auditor, finance):
        file.write_text("secret")
    written = auditor.stat().st_mtime
    await credentials.renew_tokens(written + 59 * 86_400)
    assert asked == []
    os.utime(finance, (written + 86_400,) * 2)
    await credentials.renew_tokens(written + 60 * 86_400 + 1)
    assert [command[:5] for command in asked] == [("token", "renew", "3", "--out", str(auditor))]
    assert said == [("audit", "the token of role auditor is renewed")]
