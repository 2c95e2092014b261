"""Certificates of `up`: renewed, and reported, while everything runs."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from shared.installation import platform
from shared.installation.commands import Commands
from shared.installation.install import Installer
from shared.installation.layout import CUSTODIANS, NodePlan, Plan
from shared.runtime.certificates import life_of
from shared.runtime.tls import LIFE


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def installer(tmp_path, said) -> Installer:
    commands = Commands(lambda who, what: said.append((who, what)))
    return Installer(Plan(tmp_path, (NodePlan("node-a", "operator-a"),)), commands)


def test_what_is_near_its_end_is_renewed_and_reported_and_nothing_else_is(installer, said):
    now = datetime.now(UTC)
    files = installer.certificates(now)
    first = {name: life_of(its.cert) for name, its in files.items()}
    assert set(files) == {"audit", "witness-1", *CUSTODIANS, "node-a"}
    installer.renew(now + LIFE / 2)
    assert said == []
    installer.renew(now + LIFE - timedelta(days=20))
    assert {who for who, _ in said} == set(files)
    for name, its in installer.certificates(now + LIFE - timedelta(days=20)).items():
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


async def test_tokens_are_renewed_after_two_thirds_of_their_life(installer, said, monkeypatch):
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

    monkeypatch.setattr(installer, "_run", run)
    monkeypatch.setattr(installer, "_json", listing)
    auditor, finance = (installer._token(role) for role in ("auditor", "finance"))
    auditor.parent.mkdir(parents=True)
    for file in (auditor, finance):
        file.write_text("secret")
    written = auditor.stat().st_mtime
    await installer.renew_tokens(written + 59 * 86_400)
    assert asked == []
    os.utime(finance, (written + 86_400,) * 2)
    await installer.renew_tokens(written + 60 * 86_400 + 1)
    assert [command[:5] for command in asked] == [("token", "renew", "3", "--out", str(auditor))]
    assert said == [("audit", "the token of role auditor is renewed")]
