"""`counterfoil infer` and `client`: exit codes of the catalogue, JSON alone on standard output, no traceback."""

import asyncio
import json
import re
from dataclasses import replace

import pytest

from execution_layer.client.archive import Archive
from execution_layer.commands.client import client as client_group
from execution_layer.commands.client import infer
from execution_layer.node import session
from shared.envelope.sealing import open_with_secret
from shared.runtime.cli import run
from tests.execution_layer.asking import random32
from tests.execution_layer.fakes import FakeEngine


class Shell:
    """Runs one client's commands off the world's event loop."""

    def __init__(self, world, capsys, **changes):
        world.policy(**changes)
        self.config = str(world.folder / "client" / "client.toml")
        self.capsys = capsys

    async def __call__(self, command, *arguments):
        """Return (exit code, standard output, standard error)."""
        words = [str(argument) for argument in arguments]
        code = await asyncio.to_thread(run, command, words)
        shown = self.capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out, shown.err

    async def infer(self, *arguments):
        return await self(infer, "--config", self.config, *arguments)

    async def client(self, name, *arguments):
        words = name.split()
        return await self(client_group, *words, "--config", self.config, *arguments)


async def test_text_streams_to_standard_output_and_the_facts_to_standard_error(world, capsys):
    async with world.node():
        shell = Shell(world, capsys)
        code, out, err = await shell.infer("hello", "--max-tokens", 4)
        assert code == 0
        assert len(out.split()) == 4
        assert "honest/node-1: 5 + 4 tokens" in err
        assert "checked" in err


async def test_slots_and_failover_are_the_policys_unless_the_command_says_otherwise(world, capsys):
    options = ("--slots", 20, "--failover", "continue", "--json")
    async with world.node(FakeEngine(dies_after=2, pause_s=0.3)):
        shell = Shell(world, capsys, max_attempts=2)
        code, out, err = await shell.infer("hello", "--max-tokens", 4, *options)
        assert "failed, and says so in its receipt" in err
        assert (code != 0, out) == (True, "")
    archive = Archive(world.folder / "client" / "archive.sqlite")
    last, first = archive.latest(2)
    archive.close()
    bodies = [open_with_secret(item.envelope, item.secret).body for item in (first, last)]
    assert [body.slots.ms for body in bodies] == [20, 20]
    assert [bool(body.prefix) for body in bodies] == [False, True]
    async with world.node(FakeEngine()):
        code, out, _ = await shell.infer("hello", "--max-tokens", 4, *options)
        assert code == 0
        (part,) = json.loads(out)["contributions"]
        assert (part["tokens"], part["receipt"]) == (4, json.loads(out)["receipt"])


async def test_the_receipt_is_printed_whole_so_that_other_commands_take_it(world, capsys, tmp_path):
    async with world.node():
        shell = Shell(world, capsys)
        _, _, err = await shell.infer("hello", "--max-tokens", 4)
        (entry,) = re.findall(r"receipt ([0-9a-f]+) checked", err)
        assert (await shell.client("archive show", entry))[0] == 0
        file = tmp_path / "prompts.jsonl"
        file.write_text('{"prompt": "hello", "max_tokens": 3}')
        _, out, _ = await shell.infer("--file", file)
        (entry,) = re.findall(r"\b[0-9a-f]{64}\b", out)
        assert (await shell.client("archive show", entry))[0] == 0
        _, out, _ = await shell.client("archive show latest", "--json")
        assert json.loads(out)["receipt"] == entry
        _, out, _ = await shell.client("archive list", "--json")
        assert [row["number"] for row in json.loads(out)] == [1, 0]


PAINTED = "\x1b]0;title\x07\x9b2J\u202ewords"


async def test_a_nodes_text_steers_no_terminal(world, capsys, tmp_path):
    engine = FakeEngine()
    engine.text = lambda _token: PAINTED
    async with world.node(engine):
        shell = Shell(world, capsys)
        file = tmp_path / "prompts.jsonl"
        file.write_text('{"prompt": "hello", "max_tokens": 1}')
        _, plain, _ = await shell.infer("hello", "--max-tokens", 1)
        assert plain.strip() == "\\x1b]0;title\\x07\\x9b2J\\u202ewords"
        _, several, _ = await shell.infer("hello", "--max-tokens", 1, "--n", 2)
        _, told, _ = await shell.infer("hello", "--max-tokens", 1, "--json")
        assert json.loads(told)["text"] == PAINTED  # programs get it as it is
        _, many, _ = await shell.infer("--file", file)
        _, lines, _ = await shell.infer("--file", file, "--json")
        entry = json.loads(told)["receipt"]
        _, kept, _ = await shell.client("archive show", entry)
        _, kept_json, _ = await shell.client("archive show", entry, "--json")
        assert json.loads(kept_json)["text"] == PAINTED
        for shown in (plain, several, told, many, lines, kept, kept_json):
            assert not set(shown) & set("\x1b\x07\x9b\u202e")


async def test_with_json_there_is_one_line_for_programs(world, capsys):
    async with world.node():
        shell = Shell(world, capsys)
        options = (
            "--system",
            "Be brief.",
            "--seed",
            7,
            "--cost-centre",
            "sales",
            "--json",
            "--tag",
            "team=search",
        )
        code, out, err = await shell.infer("hello", "--max-tokens", 4, *options)
        assert (code, err) == (0, "")
        (line,) = out.splitlines()
        told = json.loads(line)
        assert told["checked"] is True
        assert told["usage"] == {"input": len("Be brief.|hello"), "cached": 0, "output": 4}
        code, out, _ = await shell.client("archive show", told["receipt"], "--json")
        kept = json.loads(out)
        assert kept["text"] == told["text"]
        assert kept["tags"] == {"cost_centre": "sales", "team": "search"}
        assert [message["role"] for message in kept["messages"]] == ["system", "user"]
        assert kept["state"] == "answered"
        code, out, _ = await shell.client("archive list", "--json")
        (row,) = json.loads(out)
        assert row["receipt"] == told["receipt"]
        assert "Be brief." not in out  # a list shows no plaintext


async def test_log_probabilities_are_a_table_for_people_and_integers_for_programs(world, capsys):
    async with world.node():
        shell = Shell(world, capsys)
        asked = ("hello", "--max-tokens", 3, "--logprobs", 2)
        code, out, _ = await shell.infer(*asked)
        assert code == 0
        assert "Log-probabilities" in out
        assert out.count("-0.0010") == 3
        code, out, _ = await shell.infer(*asked, "--json")
        told = json.loads(out)["logprobs"]
        assert [item["logprob"] for item in told] == [-5, -5, -5]
        assert [other["logprob"] for other in told[0]["top"]] == [-5, -1005]
        code, out, _ = await shell.infer("hello", "--max-tokens", 3, "--json")
        assert "logprobs" not in json.loads(out)


async def test_several_answers_are_shown_in_order_each_with_its_receipt(world, capsys):
    async with world.node():
        shell = Shell(world, capsys)
        code, out, err = await shell.infer("hello", "--max-tokens", 3, "--n", 3)
        assert code == 0
        assert [word for word in out.split() if word.startswith("[")] == ["[0]", "[1]", "[2]"]
        assert err.count("checked") == 3
        code, out, _ = await shell.infer("hello", "--max-tokens", 3, "--n", 2, "--json")
        told = [json.loads(line) for line in out.splitlines()]
        assert [row["choice"] for row in told] == [0, 1]
        assert len({row["receipt"] for row in told}) == 2


async def test_every_sampling_option_arrives_sealed(world, capsys):
    async with world.node():
        shell = Shell(world, capsys)
        options = (
            "--min-p", "0.05", "--repetition-penalty", "1.1", "--presence-penalty", "-0.5",
            "--frequency-penalty", "0.25", "--stop-token-id", 9, "--stop-token-id", 2,
        )  # fmt: skip
        code, out, _ = await shell.infer("hello", "--max-tokens", 3, *options, "--json")
        assert code == 0
        code, out, _ = await shell.client("archive show", json.loads(out)["receipt"], "--json")
        assert json.loads(out)["settings"] == {
            "max_tokens": 3,
            "temperature_ppm": 1_000_000,
            "top_k": 0,
            "top_p_ppm": 1_000_000,
            "stop": [],
            "min_p_ppm": 50_000,
            "repetition_penalty_ppm": 1_100_000,
            "presence_penalty_ppm": -500_000,
            "frequency_penalty_ppm": 250_000,
            "stop_token_ids": [2, 9],
        }


async def test_a_receipt_that_lies_exits_with_3_and_prints_no_answer_for_programs(
    world, capsys, monkeypatch
):
    true = session.draft_receipt
    async with world.node():
        monkeypatch.setattr(
            session, "draft_receipt", lambda *facts: replace(true(*facts), output=random32())
        )
        shell = Shell(world, capsys)
        code, out, err = await shell.infer("hello", "--max-tokens", 4, "--json")
        assert (code, out) == (3, "")
        assert "the receipt's output does not match what was sent and received" in err
        code, _, err = await shell.infer("hello", "--max-tokens", 4)
        assert code == 3
        assert "checked" not in err
        code, out, _ = await shell.client("archive list", "--json")
        assert {row["state"] for row in json.loads(out)} == {"disbelieved"}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("x" * 600,), 2, "the prompt has 600 tokens"),  # an over-long prompt
        (("hello", "--max-tokens", 0), 2, "--max-tokens"),  # a zero token budget
        (("hello", "--max-tokens", 2**20 + 1), 2, "--max-tokens"),
        (("hello", "--max-tokens", 2**20), 2, "above this node's 256"),  # a huge one
        (("",), 2, "the prompt is empty"),
        (("hello", "--temperature", "warm"), 2, "temperature"),
        (("hello", "--seed", -1), 2, "a seed must be"),
        (("hello", "--min-p", "2"), 2, "min_p must be"),
        (("hello", "--presence-penalty", "3"), 2, "presence_penalty must be"),
        (("hello", "--repetition-penalty", "0"), 2, "repetition_penalty must be"),
        (("hello", "--stop-token-id", -1), 2, "a stop token id must be"),
        (("hello", "--logprobs", 21), 2, "--logprobs"),
        (("hello", "--n", 0), 2, "--n"),
        (("--file", "x.jsonl", "--n", 2), 2, "--n is for one PROMPT"),
        (("--file", "x.jsonl", "--tag", "a=b"), 2, "in FILE, each line has its own"),
        (("--file", "x.jsonl", "--cost-centre", "b"), 2, "in FILE, each line has its own"),
        (("hello", "--tag", "team"), 2, "the tag 'team' is not NAME=VALUE"),
        (("hello", "--tag", "a=1", "--tag", "a=2"), 2, "the tag 'a' is given twice"),
        (("hello", "--tag", "cost_centre=1", "--cost-centre", "2"), 2, "given twice"),
        (("hello", "--tag", "Team=search"), 2, "'Team' cannot be the name of a tag"),
        (("hello", "--tag", "team=a\nb"), 2, "the tag team contains U+000A"),
        (("hello", "--cost-centre", ""), 2, "the tag cost_centre must be 1 to 128 characters"),
        (("hello", "--node", "node-9"), 4, "no node is named node-9"),
        (("hello", "--file", "prompts.jsonl"), 2, "either PROMPT or --file"),
        ((), 2, "either PROMPT or --file"),
        (("hello", "--raw", "--system", "x"), 2, "--raw sends PROMPT alone"),
        (("--file", "nowhere.jsonl"), 4, "nowhere.jsonl cannot be read"),
    ],
    ids=lambda value: " ".join(map(str, value))[:30] if isinstance(value, tuple) else "",
)
async def test_what_cannot_be_asked_says_why_and_exits_by_the_catalogue(
    world, capsys, arguments, code, told
):
    async with world.node():
        found, out, err = await Shell(world, capsys).infer(*arguments)
        assert (found, out.strip()) == (code, "")
        assert told in err


async def test_an_audit_server_that_is_away_exits_with_5(world, capsys):
    async with world.node():
        shell = Shell(world, capsys)
        world.audit.away = True
        code, out, err = await shell.infer("hello")
        assert (code, out.strip()) == (5, "")
        assert "away" in err


async def test_a_stopped_node_that_the_directory_still_lists_exits_with_5(world, capsys):
    async with world.node():
        pass
    shell = Shell(world, capsys, max_attempts=1)
    code, _, err = await shell.infer("hello")
    assert code == 5
    assert err.startswith("Error: ")


async def test_a_file_of_prompts_tells_each_result_and_exits_with_1_if_one_failed(
    world, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    async with world.node(FakeEngine()), world.node(name="node-2"):
        shell = Shell(world, capsys)
        file = tmp_path / "prompts.jsonl"
        lines = [{"prompt": f"question {i}", "max_tokens": 3} for i in range(6)]
        file.write_text("\n".join(json.dumps(line) for line in lines))
        code, out, err = await shell.infer("--file", file, "--spread", "--json")
        assert (code, err) == (0, "")
        told = sorted((json.loads(line) for line in out.splitlines()), key=lambda x: x["line"])
        assert [row["line"] for row in told] == list(range(6))
        assert [row["node"] for row in told] == ["honest/node-1", "honest/node-2"] * 3
        file.write_text(file.read_text() + '\n{"prompt": "' + "x" * 600 + '"}')
        code, out, _ = await shell.infer("--file", file, "--json", "--concurrency", 2)
        assert code == 1
        (failed,) = [row for row in map(json.loads, out.splitlines()) if not row["checked"]]
        assert (failed["line"], failed["error"]) == (6, "INVALID_ARGUMENT")
        code, out, _ = await shell.infer("--file", file)
        assert code == 1
        assert "INVALID_ARGUMENT" in out


async def test_an_entry_that_is_invalid_or_unknown_is_reported(world, capsys):
    async with world.node():
        shell = Shell(world, capsys)
        assert (await shell.client("archive show", "00" * 32))[0] == 4
        code, _, err = await shell.client("archive show", "xyz")
        assert code == 2
        assert "64 lower-case hexadecimal digits" in err
