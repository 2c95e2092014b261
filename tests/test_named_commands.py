"""Every command that documentation, help and messages name exists, with the options that they give it."""

import re
import shlex
from pathlib import Path

import click
import pytest

from shared.runtime.cli import root

ROOT = Path(__file__).parents[1]
PLACES = (
    "README.md",
    "docs/*.md",
    "shared/**/*.py",
    "execution_layer/**/*.py",
    "audit_layer/**/*.py",
    "migrations/**/*.py",
)
COMMAND = re.compile(r"`(counterfoil [a-z][^`\n]*)`")
OPTION = re.compile(r"--[a-z][a-z-]*")


def named():
    """Return every command named, with the first place of each."""
    found: dict[str, str] = {}
    for pattern in PLACES:
        for path in sorted(ROOT.glob(pattern)):
            if path.name == "commands.md":  # made from the commands themselves
                continue
            for command in COMMAND.findall(path.read_text("utf-8")):
                found.setdefault(command, str(path.relative_to(ROOT)))
    return found


def why_not(words: list[str]) -> str | None:
    """Return what of a command does not exist, None if all of it does."""
    command: click.Command | None = root()
    rest = words[1:]
    while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        inner = command.get_command(click.Context(command), rest[0])
        if inner is None:
            return f"{rest[0]} is not a command"
        command, rest = inner, rest[1:]
    assert command is not None
    options = {name for parameter in command.params for name in parameter.opts}
    options |= {name for parameter in command.params for name in parameter.secondary_opts}
    options |= {"--help", "--traceback"}
    unknown = [
        word for word in rest if OPTION.fullmatch(word) and word not in options | {"--version"}
    ]
    return f"{', '.join(unknown)}: no such option" if unknown else None


def test_commands_are_named_in_many_places():
    found = named()
    assert len(found) > 60
    assert {"README.md", "docs/log.md"} <= set(found.values())
    assert any(place.endswith(".py") for place in found.values())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("counterfoil log nothing", "nothing is not a command"),
        ("counterfoil doctor --x", "--x: no such option"),
    ],
)
def test_what_does_not_exist_is_seen(wrong, why):
    assert why_not(shlex.split(wrong)) == why


def test_every_command_that_is_named_exists():
    missing = {}
    for command, place in named().items():
        words = re.split(r"[\s\"'=|;]+", command.partition(" > ")[0])
        if (reason := why_not([word for word in words if word])) is not None:
            missing[f"{place}: {command}"] = reason
    assert not missing
