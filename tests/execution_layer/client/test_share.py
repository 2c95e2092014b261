"""One answer shared with one person: verified offline from bytes alone, and nothing in it can be altered or left out."""

import json
from dataclasses import replace

import pytest
import pytest_asyncio

from execution_layer.client.archive import Archive
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.share import share_of, verify_share
from execution_layer.client.verify import trust_of
from execution_layer.commands.client import client as client_group
from execution_layer.commands.client import verify
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.verification.share import FORMAT, parse_share
from shared.verification.trust import Trust
from tests.execution_layer.fakes import FakeEngine
from tests.execution_layer.world import small_world

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = "a secret prompt"


class Kept:
    """Archived answers: two whole ones and one that was cut off by its deadline; nothing is running any more."""

    def __init__(self, folder, entries):
        self.folder = folder
        self.config = str(folder / "client.toml")
        self.policy = ClientPolicy.load(self.config)
        self.entries = entries

    def share(self, which=0):
        archive = Archive(self.policy.archive)
        try:
            return share_of(archive, archive.by_entry(self.entries[which]), self.policy)
        finally:
            archive.close()

    def opened(self, share):
        return verify_share(parse_share(share.encode()), trust_of(self.policy))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept(tmp_path_factory):
    async with small_world(tmp_path_factory.mktemp("world")) as world:
        async with (
            world.node(FakeEngine(pause_s=0.01)),
            world.client() as client,
        ):
            answers = [await client.generate(prompt=PROMPT, max_tokens=9) for _ in range(2)]
        async with world.node(FakeEngine(holds_after=3)), world.client() as client:
            answers.append(await client.generate(prompt=PROMPT, max_tokens=9, timeout_s=2))
            assert (await client.upgrade_proofs(20)).missing == 0
        return Kept(world.folder / "client", [answer.receipt.entry for answer in answers])


def failing(opened):
    """Return the title of the step that fails; nothing is shown then, and nothing comes after it."""
    steps = opened.report.steps
    assert opened.shown is None
    assert not opened.report.verified
    assert all(step.holds for step in steps[:-1])
    assert not steps[-1].holds
    return steps[-1].title


async def test_a_share_shows_prompt_and_answer_to_somebody_who_has_nothing_else(kept):
    share = kept.share()
    for trust in (trust_of(kept.policy), Trust()):
        opened = verify_share(parse_share(share.encode()), trust)
        assert opened.report.verified
        assert len(opened.report.steps) == 19
        assert opened.shown["prompt"] == PROMPT
        assert opened.shown["text"].startswith("w")
        assert opened.shown["is"] == "the answer up to the number of tokens that was asked for"
        assert opened.report.facts["index"] >= 0  # in the witnessed log
        assert "no tokenizer was at hand" in opened.report.rests_on[-1]


async def test_a_share_of_an_answer_that_was_cut_off_says_so_and_cannot_hide_it(kept):
    share = kept.share(2)
    opened = kept.opened(share)
    assert opened.shown["finish"] == "deadline"
    assert opened.shown["is"].startswith("only the beginning")
    whole = kept.share(0)
    assert "receipt" in failing(
        kept.opened(replace(share, bundle=replace(share.bundle, statement=whole.bundle.statement)))
    )
    assert "frame" in failing(kept.opened(replace(whole, frames=whole.frames[:-1])))


def flipped(data, at=-1):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "title"),
    [
        (lambda s, o: replace(s, secret=o.secret), "the secret is the one"),
        (lambda s, _o: replace(s, secret=flipped(s.secret)), "the secret is the one"),
        (lambda s, o: replace(s, envelope=o.envelope), "the secret is the one"),
        (lambda s, o: replace(s, envelope=o.envelope, secret=o.secret), "the secret is the one"),
        (lambda s, _o: replace(s, envelope=flipped(s.envelope, 40)), "the secret is the one"),
        (lambda s, _o: replace(s, frames=s.frames[1:]), "every frame opens"),
        (lambda s, _o: replace(s, frames=s.frames[::-1]), "every frame opens"),
        (lambda s, o: replace(s, frames=o.frames), "every frame opens"),
        (lambda s, _o: replace(s, frames=((flipped(s.frames[0][0]), s.frames[0][1]),)), "every frame opens"),
        (lambda s, o: replace(s, node_nonce=o.node_nonce), "every frame opens"),
        (lambda s, o: replace(s, final_record=o.final_record), "every frame opens"),
        (lambda s, _o: replace(s, final_signature=flipped(s.final_signature)), "every frame opens"),
        (lambda s, o: replace(s, bundle=o.bundle), "the secret is the one"),
        (lambda s, o: replace(s, bundle=replace(s.bundle, tlog_proof=o.bundle.tlog_proof)), "the receipt is in the witnessed log"),
    ],
)  # fmt: skip
async def test_whatever_is_altered_or_taken_from_another_request_fails(kept, change, title):
    assert failing(kept.opened(change(kept.share(0), kept.share(1)))).startswith(title)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v.pop("frames"),
        lambda v: v.update(more=1),
        lambda v: v.update(frames=[["", "", ""]]),
        lambda v: v.update(frames={}),
        lambda v: v.update(frames=[["*", ""]]),
        lambda v: v.update(secret=7),
        lambda v: v.update(bundle=[]),
        lambda v: v["bundle"].pop("order"),
        lambda v: [v["bundle"].pop(n) for n in ("order", "key_bundle", "key_bundle_proof")],
        lambda v: v.update(format="counterfoil-share/v2"),
    ],
)
async def test_a_malformed_file_is_refused(kept, spoil):
    values = json.loads(kept.share().encode())
    spoil(values)
    with pytest.raises(CounterfoilError) as caught:
        parse_share(json.dumps(values).encode())
    assert caught.value.code is Code.MALFORMED


async def test_a_file_that_is_too_deep_or_too_long_is_refused(monkeypatch):
    for data in (b"[" * 200_000, b"\xff", b""):
        with pytest.raises(CounterfoilError) as caught:
            parse_share(data)
        assert caught.value.code is Code.MALFORMED
    monkeypatch.setattr("shared.verification.share.MAX_SHARE", 10)
    with pytest.raises(CounterfoilError, match="at most 10 bytes"):
        parse_share(b'{"format": "' + FORMAT.encode() + b'"}')


async def test_the_commands_share_seal_and_verify(kept, tmp_path, capsys):
    key, to, entry = tmp_path / "key", tmp_path / "share.json", kept.entries[0].hex()
    assert run(client_group, ["recipient-key", "--to", str(key)]) == 0
    assert key.stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    sharing = ["share", "--config", kept.config, entry, "--to", str(to)]
    assert run(client_group, sharing) == 0
    assert "It opens no\nother" in capsys.readouterr().out.replace("no other", "no\nother")
    assert run(verify, [str(to)]) == 0
    told = capsys.readouterr().out
    assert PROMPT in told
    assert "the answer up to the number of tokens" in told
    assert told.rstrip().endswith("verified")
    assert run(client_group, [*sharing, "--recipient", str(key) + ".pub"]) == 0
    assert PROMPT not in to.read_text()
    assert run(verify, [str(to)]) != 0
    capsys.readouterr()
    assert run(verify, [str(to), "--recipient-key", str(key), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shown"]["prompt"] == PROMPT
    other = tmp_path / "other"
    assert run(client_group, ["recipient-key", "--to", str(other)]) == 0
    assert run(verify, [str(to), "--recipient-key", str(other)]) != 0


async def test_an_answer_without_its_proof_cannot_be_shared_yet(tmp_path):
    async with small_world(tmp_path) as world, world.node(), world.client() as client:
        answer = await client.generate(prompt=PROMPT, max_tokens=2)
        found = client.archive.by_entry(answer.receipt.entry)
        with pytest.raises(CounterfoilError) as caught:
            share_of(client.archive, found, client._policy)
        assert caught.value.code is Code.NOT_WITNESSED
        assert "client proofs" in caught.value.remedy
