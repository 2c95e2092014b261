"""The blocking client, as the README shows it."""

import asyncio
import re
import sys
import threading
from pathlib import Path

import pytest

from execution_layer.client import ClientPolicy, CounterfoilClient
from shared.runtime.errors import Code, CounterfoilError
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.waiting import until

README = Path(__file__).parents[3] / "README.md"


def readme_block():
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return block


def config(world):
    world.policy()
    return world.folder / "client" / "client.toml"


async def test_the_readmes_example_runs_as_it_stands(world, tmp_path, monkeypatch, capsys):
    async with world.node():
        path = config(world)
        (tmp_path / ".counterfoil").symlink_to(path.parent.parent)
        monkeypatch.chdir(tmp_path)
        names = {}
        await asyncio.to_thread(exec, readme_block(), names)  # it is what users copy
        answer = names["answer"]
        assert len(answer.token_ids) == 64
        text, _, entry = capsys.readouterr().out.strip().rpartition(" ")
        assert text.strip() == answer.text.strip()
        await world.audit.wait_for_receipts(1)
        assert world.audit.receipts()[0].entry.hex() == entry


async def test_it_is_shared_between_threads_and_says_what_the_async_one_says(world):
    async with world.node():
        path = config(world)

        def use():
            answers = []
            with CounterfoilClient(ClientPolicy.load(path)) as client:

                def ask():
                    answers.append(client.generate(prompt="hello", max_tokens=3))

                threads = [threading.Thread(target=ask) for _ in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                answers += client.generate(prompt="hello", max_tokens=3, n=2)
                with pytest.raises(CounterfoilError) as caught:
                    client.generate(prompt="x" * 600, max_tokens=3)
                assert caught.value.code is Code.INVALID_ARGUMENT
                assert client.upgrade_proofs(20).missing == 0
                assert client.hand_in_missing(0.0) == 0
                client.deposit_evidence(answers[0].receipt.entry)
                counts = {"numbers": 9, "receipts": 8, "proofs": 8, "refusals": 1}
                assert client.archive.counts() == counts
            client.close()  # again: nothing happens
            return answers

        answers = await asyncio.to_thread(use)
        assert sorted(answer.number for answer in answers) == list(range(8))
        assert [answer.choice for answer in answers[-2:]] == [0, 1]
        assert len(world.audit.deposits) == 1


class FakeFuture:
    """A double of the future that the caller's thread waits for: once text has come, Ctrl-C."""

    def __init__(self, future, text_came):
        self.future = future
        self.text_came = text_came

    def result(self):
        assert self.text_came.wait(20)
        raise KeyboardInterrupt

    def cancel(self):
        self.future.cancel()


async def test_an_interrupt_in_the_callers_thread_ends_the_call_on_the_wire(world, monkeypatch):
    async with world.node(FakeEngine(holds_after=1)) as node:
        path = config(world)
        text_came = threading.Event()
        true = asyncio.run_coroutine_threadsafe

        def use():
            with CounterfoilClient(ClientPolicy.load(path)) as client:
                with monkeypatch.context() as patch:
                    patch.setattr(
                        asyncio,
                        "run_coroutine_threadsafe",
                        lambda work, loop: FakeFuture(true(work, loop), text_came),
                    )
                    with pytest.raises(KeyboardInterrupt):
                        client.generate(
                            prompt="hello", max_tokens=9, on_text=lambda _: text_came.set()
                        )
                return client.upgrade_proofs(0)  # the client goes on working

        assert (await asyncio.to_thread(use)).missing == 0
        await until(lambda: not node.load.in_flight)
        await world.audit.wait_for_receipts(1)
        assert world.audit.receipts()[0].payload["finish"] == "cancelled"


async def test_what_is_imported_for_it_needs_no_torch():
    code = (
        "import sys, execution_layer.client as c; c.CounterfoilClient; c.ClientPolicy;"
        " assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'heavy'"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await asyncio.wait_for(process.wait(), 60) == 0
