"""A client whose policy is `always` asks for the audit of what it was answered: by itself, once, and in spite of everything."""

import asyncio
import base64
import json
import os
import signal
import sys

import pytest

from execution_layer.client.archive import State
from execution_layer.client.verdicts import QueryApi, verdicts_of
from execution_layer.commands.client import client as client_command
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.disclosures import AuditRequest
from shared.statements.verdicts import Outcome, Reason, Verdict
from tests.execution_layer.mirrors import FakeMirror
from tests.execution_layer.waiting import until
from tests.vectors.samples import signing_key


def asked(world):
    """Return the receipts whose audit the log has a request for, each signed by the tenant."""
    key = public_bytes(world.tenant_key)
    return [open_as(AuditRequest, raw, key)[0].receipt for raw in world.audit.audit_requests()]


async def test_what_is_answered_under_always_is_asked_for_and_nothing_else(world):
    async with world.node():
        async with world.client(audit="always") as client:
            answer = await client.generate(prompt="hello", max_tokens=3)
            await until(lambda: asked(world) == [answer.receipt.entry], 10)
            await until(lambda: client.archive.audits(9)[0].log_index is not None, 10)
            for _ in range(2):
                await client.upgrade_proofs(1)
        for policy in ("sampled", "never"):
            async with world.client(audit=policy) as client:
                await client.generate(prompt="hello", max_tokens=3)
                await client.upgrade_proofs(1)
        assert len(asked(world)) == 1


async def test_a_receipt_that_the_log_has_not_heard_of_is_handed_in_first(world):
    async with world.node():
        world.audit.refusals["receipt"] = Code.OVERLOADED  # as if its node never delivered it
        async with world.client(audit="always") as client:
            answer = await client.generate(prompt="hello", max_tokens=3)
            await client.upgrade_proofs()
            (waiting,) = client.archive.audits(9)
            assert (waiting.receipt, waiting.log_index) == (answer.receipt.entry, None)
            assert waiting.audit_request is not None
        assert asked(world) == []
        del world.audit.refusals["receipt"]
        async with world.client(audit="always") as client:
            await client.upgrade_proofs()
            assert asked(world) == [answer.receipt.entry]
            assert client.archive.audits(9)[0].audit_request == waiting.audit_request


async def test_an_answer_of_the_log_that_was_lost_leads_to_no_second_request(world):
    async with world.node(), world.client(audit="always") as client:
        answer = await client.generate(prompt="hello", max_tokens=3)
        await until(lambda: asked(world), 10)
        await client._closing.close()
        await client.archive._journal.write(
            lambda db: db.execute("UPDATE audits SET log_index = NULL")
        )
        await client.upgrade_proofs()
        assert asked(world) == [answer.receipt.entry]
        assert client.archive.audits(9)[0].log_index is not None


@pytest.mark.parametrize("fault", ["client.audit.kept:kill", "client.receipt.checked:kill"])
async def test_kill_9_between_receipt_and_request_loses_neither(world, fault):
    """Nothing but the archive knows of it; the next process asks, and with the same statement if there was one."""
    async with world.node():
        world.policy(audit="always")
        config = str(world.folder / "client" / "client.toml")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shared.runtime", "infer", "--config", config),
            *("--max-tokens", "5", "--json", "hello"),
            env={**os.environ, VARIABLE: fault},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
        assert asked(world) == []
        async with world.client(audit="always") as client:
            (before,) = client.archive.audits(9)
            if before.receipt is None:
                await client.resume("latest")
            await client.upgrade_proofs(5)
            (after,) = client.archive.audits(9)
            assert asked(world) == [after.receipt]
            assert before.audit_request in (None, after.audit_request)
            assert after.log_index is not None


async def test_what_the_log_rejects_for_good_is_told_and_not_sent_for_ever(world):
    world.audit.refusals["audit-request"] = Code.UNTRUSTED_KEY
    async with world.node(), world.client(audit="always") as client:
        await client.generate(prompt="hello", max_tokens=3)
        await until(lambda: client.archive.audits(9)[0].rejected is not None, 10)
        sent = world.audit.submissions
        await client.upgrade_proofs(5)
        assert world.audit.submissions == sent
        world.audit.refusals.clear()
        assert await client.audit("latest") == 1  # asked for anew, by a person


async def test_a_person_asks_for_one_answer_that_is_in_doubt_and_sees_what_was_asked(world, capsys):
    async with world.node():
        async with world.client() as client:
            answer = await client.generate(prompt="hello", max_tokens=3)
            other = await client.generate(prompt="hello", max_tokens=3)
            assert client.archive.latest(1)[0].state is State.ANSWERED
        config = str(world.folder / "client" / "client.toml")

        async def command(*words):
            code = await asyncio.to_thread(
                run, client_command, [*words, "--config", config, "--json"]
            )
            return code, json.loads(capsys.readouterr().out)

        code, facts = await command("audit", answer.receipt.entry.hex())
        assert (code, asked(world)) == (0, [answer.receipt.entry])
        assert facts["receipt"] == answer.receipt.entry.hex()
        code, (listed,) = await command("audits")
        assert (code, listed) == (0, facts)
        world.audit.away = True
        words = ["audit", other.receipt.entry.hex(), "--config", config]
        assert await asyncio.to_thread(run, client_command, words) != 0
        world.audit.away = False
        async with world.client() as client:
            await client.upgrade_proofs()
        assert asked(world) == [answer.receipt.entry, other.receipt.entry]


# -- verdicts -----------------------------------------------------------------------------------------------------


class FakeApi(QueryApi):
    """A double of the query API: statements of a log, and what it says about receipts."""

    def __init__(self, audit):
        self.audit = audit
        self.opinions = []

    async def ask(self, path):
        if path.endswith("/account"):
            return {"opinions": self.opinions}
        entry = bytes.fromhex(path.rpartition("/")[2])
        index = self.audit.index[entry]
        raw = base64.b64encode(self.audit.statements[index]).decode()
        return {"raw": raw, "tlog_proof": self.audit.proof(index)}

    def judge(self, receipt, about=None, *, log=True):
        """Put a verdict into the log, and say that it is about a receipt."""
        value = Verdict(
            receipt=receipt if about is None else about, request=bytes(32), worker="worker-1",
            outcome=Outcome.PASS, reason=Reason.EXACT, evidence=bytes(32), numeric_profile=bytes(32), at=1,
        )  # fmt: skip
        raw = sign(value, key=signing_key("worker-1"), issuer="worker-1")
        if log:
            self.audit.append(raw)
        self.opinions.append({"verdict": {"entry": entry_of(raw).hex(), "asked": True}})


async def test_verdicts_are_shown_once_the_log_is_proved_to_have_them(world):
    api, policy, receipt = FakeApi(world.audit), world.policy().log.policy(), b"\x07" * 32
    assert await verdicts_of(api, [receipt], policy) == [[]]
    api.judge(receipt)
    ((shown,),) = await verdicts_of(api, [receipt], policy)
    assert (shown["outcome"], shown["reason"], shown["asked"]) == ("PASS", "exact", True)


async def test_the_query_api_gets_the_token_and_no_header_takes_another_line(world):
    mirror = FakeMirror()
    mirror.files["v1/x"] = b'{"a": 1}'
    mirror.files["v1/list"] = b"[]"
    async with mirror.serving(world) as url:
        api = QueryApi(url, world.ca.ca_file, "cf_token")
        assert await api.ask("v1/x") == {"a": 1}
        assert mirror.bearers == ["Bearer cf_token"]
        with pytest.raises(CounterfoilError) as caught:
            await api.ask("v1/list")
        assert caught.value.code is Code.MALFORMED
    with pytest.raises(CounterfoilError) as caught:
        QueryApi(url, world.ca.ca_file, "x\r\nHost: other")
    assert caught.value.code is Code.CONFIGURATION


async def test_a_server_that_shows_another_receipts_verdict_or_an_unproved_one_is_not_believed(
    world,
):
    policy, receipt = world.policy().log.policy(), b"\x07" * 32
    api = FakeApi(world.audit)
    api.judge(receipt, about=b"\x08" * 32)
    with pytest.raises(CounterfoilError) as caught:
        await verdicts_of(api, [receipt], policy)
    assert caught.value.code is Code.COMMITMENT_MISMATCH
    api = FakeApi(world.audit)
    api.judge(receipt)
    true = world.audit.proof
    world.audit.proof = lambda _index: true(0)
    with pytest.raises(CounterfoilError) as caught:
        await verdicts_of(api, [receipt], policy)
    assert caught.value.code is Code.BAD_PROOF
