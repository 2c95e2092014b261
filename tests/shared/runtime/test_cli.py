"""The command line's root: lazy commands, messages and exit codes."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from importlib import metadata
from pathlib import Path

import click
import pytest

from shared.runtime import cli, logs
from shared.runtime.errors import Code, CounterfoilError, sentences
from shared.runtime.output import emit, json_option, table, to_json

HEAVY = ["torch", "sqlalchemy", "grpc", "celery", "fastapi", "alembic", "numpy", "rich"]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the registered commands with objects in this module."""

    def replace(**targets: str) -> None:
        entries = metadata.EntryPoints(
            metadata.EntryPoint(name.replace("__", "."), value, cli.ENTRY_POINTS)
            for name, value in targets.items()
        )
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: entries.select(group=group))
        monkeypatch.setattr(logs, "configure", lambda *_, **__: None)

    return replace


@click.command()
@click.argument("code")
def failing(code: str) -> None:
    """Fail as asked."""
    raise CounterfoilError(Code[code], f"{code} happened at place", remedy="Do this next.")


@click.command()
@click.argument("kind")
def odd(kind: str) -> int:
    """End in an odd way."""
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "crash":
        raise RuntimeError("unforeseen")
    if kind == "abort":
        raise click.Abort
    if kind == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if kind == "lacking":
        raise ModuleNotFoundError("No module named 'no_such.part'", name="no_such.part")
    return int(kind)


@click.command()
@click.argument("path", type=Path)
def reading(path: Path) -> None:
    """Read text."""
    click.echo(path.read_text(encoding="utf-8"))


@click.group()
def worker() -> None:
    """Replay."""


@worker.command("serve")
def worker_serve() -> None:
    """Run."""


@click.group()
def audit() -> None:
    """What auditors do."""


@audit.command()
def status() -> None:
    """Show the state."""
    click.echo("fine")


@click.command()
@json_option
def rows(as_json: bool) -> None:
    """Print data."""
    data = [{"name": "a[b]", "amount": Decimal("1E-7"), "key": b"\x01", "none": None}]
    cells = [[row["name"], row["amount"], row["none"]] for row in data]
    emit(data, as_json, lambda: table("Rows", ["name", "amount", "none"], cells))


def here(name: str) -> str:
    return f"{__name__}:{name}"


def run(*arguments: str) -> int:
    return cli.run(cli.root(), arguments)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )


def test_help_lists_the_registered_commands_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from shared.runtime import cli\n"
        "try:\n"
        "    cli.main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code in (0, None), end.code\n"
        f"print('heavy:', *[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "Exit codes: 0 done" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_the_module_runs_as_a_program():
    done = python("-m", "shared.runtime.cli", "no-such-command")
    assert done.returncode == cli.USAGE
    assert "no-such-command" in done.stderr


def test_every_code_has_an_exit_code():
    assert set(cli.EXIT_CODES) == set(Code)
    assert set(cli.EXIT_CODES.values()) == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("code", Code)
def test_an_error_is_one_message_and_its_exit_code(register, capsys, code):
    register(failing=here("failing"))
    assert run("failing", code.name) == cli.EXIT_CODES[code]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"Error: {code.name} happened at place.\nDo this next.\n"


@pytest.mark.parametrize(
    ("detail", "shown"),
    [("index 8 is not covered", "index 8 is not covered."), ("Is it up?", "Is it up?")],
)
def test_what_was_wrong_and_what_to_do_are_sentences_of_their_own(detail, shown):
    error = CounterfoilError(Code.UNAVAILABLE, detail, remedy="Ask again")
    assert error.public_detail() == f"{Code.UNAVAILABLE.value.message} {shown} Ask again"
    assert sentences(detail, None) == [detail]


def test_an_argument_that_is_not_text_is_wrong_usage(register, capsys):
    register(failing=here("failing"))
    assert run("failing", b"caf\xe9".decode("utf-8", "surrogateescape")) == cli.USAGE
    assert capsys.readouterr().err.startswith("Error: argument 2 is not UTF-8 text: b'caf\\xe9'.")


@pytest.mark.parametrize("kind", ["latin-1", "absent"])
def test_a_file_that_is_not_text_or_cannot_be_used_is_2_and_named(register, capsys, tmp_path, kind):
    path = tmp_path / "given"
    if kind == "latin-1":
        path.write_bytes("café".encode("latin-1"))
    register(reading=here("reading"))
    assert run("reading", str(path)) == cli.USAGE
    printed = capsys.readouterr().err
    assert (
        "not UTF-8 text" if kind == "latin-1" else f"{path} cannot be used: No such file"
    ) in printed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_output_and_input_are_utf_8_whatever_the_locale_says(monkeypatch, encoding):
    streams = {
        name: io.TextIOWrapper(io.BytesIO(start), encoding=encoding, errors=errors)
        for name, start, errors in (
            ("stdin", "✓".encode(), "surrogateescape"),
            ("stdout", b"", "strict"),
            ("stderr", b"", "strict"),
        )
    }
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    cli.settle_streams()
    assert streams["stdin"].read() == "✓"
    for stream in (streams["stdout"], streams["stderr"]):
        stream.write("✓ \udcff\n")
        stream.flush()
        assert stream.buffer.getvalue() == b"\xe2\x9c\x93 \\udcff\n"


def test_a_terminal_shows_a_question_mark_for_what_it_lacks(monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    stream = Terminal(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    cli.settle_streams()
    stream.write("✓ …")
    stream.flush()
    assert stream.buffer.getvalue() == b"? ?"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["audit", "worker", "serve"], "audit worker"),
        (["--log-level", "info", "rows", "--json"], "rows"),
        (["odd", "0"], "odd"),
        (["--log-name", "node-a", "rows", "--json"], "node-a"),
    ],
)
def test_log_lines_are_named_after_the_process(register, monkeypatch, arguments, name):
    register(audit=here("audit"), audit__worker=here("worker"), rows=here("rows"), odd=here("odd"))
    named: list[str] = []
    monkeypatch.setattr(logs, "configure", lambda service, **_: named.append(service))
    assert run(*arguments) == 0
    assert named == [name]


@pytest.mark.parametrize(
    ("kind", "expected"), [("interrupt", 130), ("abort", 1), ("crash", 1), ("0", 0), ("3", 3)]
)
def test_other_ends_have_their_exit_codes(register, capsys, kind, expected):
    register(odd=here("odd"))
    assert run("odd", kind) == expected
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert ("RuntimeError: unforeseen" in printed) == (kind == "crash")


def test_the_traceback_is_shown_when_it_is_wanted(register, capsys):
    register(odd=here("odd"))
    assert run("--traceback", "odd", "crash") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["absent"], ["failing"], ["failing", "--odd", "x"], ["--odd"]]
)
def test_wrong_usage_is_2(register, capsys, arguments):
    register(failing=here("failing"))
    assert run(*arguments) == 2
    assert "Usage:" in capsys.readouterr().err


def test_a_dotted_name_puts_a_command_into_a_group(register, capsys):
    register(audit=here("audit"), audit__rows=here("rows"), log__rows=here("rows"))
    assert run("--help") == 0
    assert "audit  What auditors do." in capsys.readouterr().out
    assert run("audit", "--help") == 0
    shown = capsys.readouterr().out
    assert "rows    Print data." in shown
    assert "status  Show the state." in shown
    assert run("audit", "status") == 0
    assert run("log", "rows", "--json") == 0
    assert list(audit.commands) == ["status"]


def test_a_command_whose_package_is_missing_says_so(register, capsys, tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    register(lacking="lacking:command")
    assert run("--help") == 0
    assert "(needs no_such_package_at_all)" in capsys.readouterr().out
    assert run("lacking", "serve", "--config", "x") == cli.USAGE
    assert "pip install" in capsys.readouterr().err


def test_a_package_that_is_found_missing_on_the_way_is_named(register, capsys):
    register(odd=here("odd"))
    assert run("odd", "lacking") == cli.USAGE
    printed = capsys.readouterr().err
    assert "needs the package no_such," in printed
    assert "pip install" in printed


def test_only_the_command_that_is_invoked_is_imported(register, tmp_path, monkeypatch):
    (tmp_path / "untouched.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    register(untouched="untouched:command", rows=here("rows"))
    assert run("rows", "--json") == 0


def test_json_and_table_come_from_the_same_data(register, capsys):
    register(rows=here("rows"))
    assert run("rows", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "a[b]", "amount": "0.0000001", "key": "01", "none": None}
    ]
    assert run("rows") == 0
    shown = capsys.readouterr().out
    assert "0.0000001" in shown
    assert "a[b]" in shown


@pytest.mark.parametrize("columns", ["20", "80", "200"])
def test_a_whole_entry_leaves_room_for_the_other_columns(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    row = ["9", "acme", "operator-a/node-a", "ab" * 32]
    emit([], False, lambda: table("Receipts", ["index", "tenant", "node", "entry"], [row]))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "ab" * 32 in line]
    assert line.replace("│", " ").split() == row


@pytest.mark.parametrize("columns", ["20", "80", "200"])
def test_times_and_the_title_of_a_table_are_not_broken(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    row = ["9", "2026-11-27T19:55:27Z", "operator-a/node-a", "ab" * 32]
    title = "Invoice operator-a-2026-11"
    emit([], False, lambda: table(title, ["index", "at", "node", "entry"], [row]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == title
    assert [line.replace("│", " ").split() for line in lines if "ab" * 32 in line] == [row]
    loose = ["11", "12 + 16", *row[1:]]
    emit([], False, lambda: table(title, ["index", "tokens", "at", "node", "entry"], [loose]))
    assert "operator-a/node-a" in capsys.readouterr().out
    emit([], False, lambda: table(title, ["EUR"], [["1"]]))
    assert capsys.readouterr().out.splitlines()[0].strip() == title or columns == "20"


def test_an_option_that_up_exports_is_reported_with_where_its_variable_comes_from(capsys):
    for variable, told in (("COUNTERFOIL_AUDIT_URL", True), (None, False)):
        wanted = click.Command("x", params=[click.Option(["--x"], required=True, envvar=variable)])
        assert cli.run(wanted, []) == 2
        assert ("counterfoil up" in capsys.readouterr().err) == told


def test_a_full_disk_is_reported_as_one(register, capsys):
    register(odd=here("odd"))
    assert run("odd", "full") == 5
    told = capsys.readouterr().err
    assert "no space left" in told
    assert "Free some space" in told
    assert "OSError" not in told


def test_json_refuses_what_it_does_not_know():
    @dataclass
    class Row:
        path: Path
        code: Code

    assert json.loads(to_json(Row(Path("/x"), Code.QUOTA))) == {"path": "/x", "code": "QUOTA"}
    with pytest.raises(TypeError):
        to_json(object())


def test_a_reader_that_leaves_early_gets_no_complaint():
    code = (
        "from shared.runtime import cli\n"
        "import click\n"
        "def talk():\n"
        "    for _ in range(100_000): click.echo('x' * 100)\n"
        "cli.root = lambda: click.Command('talk', callback=talk)\n"
        "cli.main([])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


SERVICE = """
import asyncio, sys
from pathlib import Path
from shared.runtime import cli
from shared.runtime.readiness import run_service, write_ready
import click

async def main(stop):
    write_ready(Path(sys.argv[1]), {"grpc": "127.0.0.1:1"})
    await stop.wait()
    if sys.argv[2] == "stubborn":
        await asyncio.Event().wait()
    print("orderly")
    return 0

cli.root = lambda: click.Command("serve", callback=lambda: run_service(main))
cli.main([])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["orderly", "stubborn"])
def test_a_service_stops_in_order_and_a_second_signal_ends_it(tmp_path, number, kind):
    from tests.shared.runtime.processes import read_when_there

    ready = tmp_path / "ready.json"
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, ready, kind], stdout=subprocess.PIPE, text=True
    ) as process:
        assert json.loads(read_when_there(ready)) == {"grpc": "127.0.0.1:1"}
        process.send_signal(number)
        if kind == "stubborn":
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(number)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == (0 if kind == "orderly" else 130)
        assert ("orderly" in out) == (kind == "orderly")
