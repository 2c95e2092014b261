"""A real node is killed at every point of an answer and started again: its client resumes, and an audit finds nothing wrong."""

import asyncio
import json
import signal

import pytest

from audit_layer.disclosure.evidence import Ciphertexts
from audit_layer.replay.child import Bench
from execution_layer.client import calls
from shared.envelope.delivered import Delivered
from shared.model.root import model_root
from shared.statements.cose import open_as
from shared.statements.keys import KeyBundle
from shared.statements.receipts import EnergyQuality, Finish
from shared.statements.verdicts import Reason
from tests.adversaries.trial import audited
from tests.execution_layer.fakes import FakeWire
from tests.execution_layer.node.test_crashes import node_process
from tests.execution_layer.waiting import until
from tests.execution_layer.world import small_world
from tests.shared.model import tiny

TOKENS = 40


@pytest.mark.timeout(240)
async def test_an_answer_over_three_kills_is_one_answer_with_one_receipt_and_passes(
    tmp_path, monkeypatch
):
    """Killed behind a stored frame, then behind the stored receipt, then behind the log's acknowledgement."""
    monkeypatch.setattr(calls, "LONGEST_PAUSE_S", 0.3)
    model = tiny.write_folder(tmp_path / "model")
    root = model_root(model)
    async with small_world(tmp_path / "world") as world, FakeWire() as wire:
        settings = world.settings(model=(model, root), endpoint=wire.address, frame_interval_ms=1)
        config = settings.spool.parent / "node.toml"
        words = ("shared.runtime", "node", "serve", "--config", str(config), "--ready-file")
        heard = []
        policy = {"model_root": root, "max_attempts": 1, "resume_patience_s": 120}
        async with world.client(**policy) as client:
            asking = None
            for fault in (
                "node.frame.stored:kill",
                "node.receipt.stored:kill",
                "node.delivery.answered:kill",
            ):
                async with node_process(world, *words, fault=fault) as process:
                    wire.join(address_of(world))
                    if asking is None:
                        await client.nodes()
                        asking = asyncio.create_task(
                            client.generate(
                                prompt="the engine",
                                max_tokens=TOKENS,
                                seed=5,
                                logprobs=2,
                                repetition_penalty="1.1",
                                on_text=heard.append,
                            )
                        )
                    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
                    wire.cut()
            async with node_process(world, *words):
                wire.join(address_of(world))
                answer = await asyncio.wait_for(asking, 60)
                await until(lambda: world.audit.submissions > 3, 60)
            assert len(world.audit.receipts()) == 1
            check(client, answer, heard, model)


def address_of(world):
    return json.loads((world.folder / "ready.json").read_text())["grpc"]


def check(client, answer, heard, model):
    """The answer is whole, was heard once, and passes an audit of what the client has of it."""
    assert "".join(heard) == answer.text
    assert answer.usage.energy_quality is EnergyQuality.UNMEASURED
    assert answer.finish in {Finish.LENGTH, Finish.STOP}
    kept = client.archive.get(answer.transcript_id)
    statement, _ = client.archive.bundle(kept.bundle)
    bundle, _ = open_as(KeyBundle, statement, None)
    sent = Delivered(
        kept.envelope, kept.node_nonce, kept.frames, kept.final_record, kept.final_signature
    )
    found = Ciphertexts(kept.order_statement, sent)
    case, undelivered = audited(kept.receipt, bundle.signing_key, kept.secret, found)
    assert undelivered == ""
    assert Bench((model,), 1).judge(case).reason is Reason.EXACT
