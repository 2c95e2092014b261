"""`counterfoil client tags` and `tag-key`: what they write, print and refuse; the key itself is never printed."""

import json

import pytest

from execution_layer.client.setup import write_client
from execution_layer.commands.client import client
from shared.runtime.cli import run
from shared.statements.tag_book import TagBook
from tests.execution_layer.client.test_policy import facts
from tests.execution_layer.commands.test_client import Shell


@pytest.fixture
def shell(tmp_path, capsys):
    """Run a client's command; return (exit code, standard output, standard error)."""
    config = write_client(tmp_path / "c", "acme", facts(tmp_path))["config"]

    def call(name, *arguments):
        words = [*name.split(), "--config", str(config), *map(str, arguments)]
        code = run(client, words)
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out, shown.err

    return call


def test_a_key_is_made_shown_by_its_fingerprint_and_taken_over(tmp_path, shell):
    file = tmp_path / "c" / "tags.key"
    assert shell("tag-key show") == (0, f"{file}: not made yet\n", "")
    code, out, _ = shell("tag-key create", "--json")
    told = json.loads(out)
    assert (code, told["file"]) == (0, str(file))
    assert json.loads(shell("tag-key show", "--json")[1]) == told
    assert json.loads(shell("tag-key create", "--json")[1]) == told
    copy = tmp_path / "copy.key"
    file.rename(copy)
    assert json.loads(shell("tag-key import", copy, "--json")[1]) == told
    assert file.read_text() == copy.read_text()
    assert file.read_text().strip() not in out


def test_a_key_that_cannot_be_taken_over_says_why(tmp_path, shell):
    shell("tag-key create")
    other = tmp_path / "other.key"
    other.write_text("ab" * 32)
    other.chmod(0o644)
    code, _, err = shell("tag-key import", other)
    assert code == 2
    assert "open to other users" in err
    other.chmod(0o600)
    code, _, err = shell("tag-key import", other)
    assert code == 6
    assert "holds another tag key" in err
    other.write_text("no key")
    code, _, err = shell("tag-key import", other)
    assert code == 2
    assert "is not a tag key" in err


async def test_a_book_is_written_for_finance(world, capsys, tmp_path):
    out = tmp_path / "tags.json"
    async with world.node():
        shell = Shell(world, capsys)
        for tag in ("search", "sales", "search"):
            code, _, _ = await shell.infer("hello", "--max-tokens", 2, "--tag", f"team={tag}")
            assert code == 0
        code, told, _ = await shell.client("tags", "--out", out, "--json")
        assert code == 0
        assert json.loads(told) == {
            "file": str(out),
            "tenant": "acme",
            "values": 2,
            "left_out": 0,
        }
        book = TagBook.load(out)
        assert sorted(tags["team"] for tags in book.entries.values()) == ["sales", "search"]
        code, told, _ = await shell.client("tags", "--out", out, "--merge", out)
        assert (code, told) == (0, f"2 blinded values of acme in {out}\n")
        assert TagBook.load(out) == book


def test_a_book_that_cannot_be_merged_says_why(tmp_path, shell):
    out, other = tmp_path / "tags.json", tmp_path / "other.json"
    other.write_text('{"tenant": "globex", "tags": {}}')
    code, _, err = shell("tags", "--out", out, "--merge", other)
    assert code == 6
    assert "of tenant acme, another of globex" in err
    code, _, err = shell("tags", "--out", out, "--merge", tmp_path / "nowhere")
    assert code == 4
    other.write_text("[]")
    code, _, err = shell("tags", "--out", out, "--merge", other)
    assert code == 2
    assert str(other) in err
    assert not out.exists()
