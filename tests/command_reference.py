"""`python -m tests.command_reference` prints docs/commands.md: every command's own help, so that neither drifts."""

from collections.abc import Iterator

import click

from shared.runtime.cli import EXIT_CODES, INTERRUPTED, root

HEADER = """# Commands

Made from the commands' own `--help` by `make generate`.

## Exit codes

The same for every command. An error is reported on standard error: what was wrong and where, then what to do next.

| code | when | error codes |
|---|---|---|
"""

MEANINGS = {
    0: "done",
    1: "failed: an answer was not believed, a check found something, or the program itself is at fault",
    2: "usage or configuration: an argument, a file or its text cannot be used as it is",
    3: "verification failed: the evidence does not prove what it claims",
    4: "not there, or not for you to see",
    5: "unavailable: not now; try again",
    6: "the present state does not permit it",
    INTERRUPTED: "interrupted by Ctrl-C",
}


def pages(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield (name, help) of a command and all below it, in order of name."""
    context = click.Context(
        command, info_name=" ".join(path), max_content_width=100, terminal_width=100
    )
    yield " ".join(path), command.get_help(context)
    if isinstance(command, click.Group):
        for name in sorted(command.list_commands(context)):
            child = command.get_command(context, name)
            assert child is not None
            yield from pages(child, (*path, name))


def exit_codes() -> str:
    """Return the rows of the table, from the one catalogue."""
    rows = []
    for number, meaning in MEANINGS.items():
        names = ", ".join(f"`{code.name}`" for code, its in EXIT_CODES.items() if its == number)
        rows.append(f"| {number} | {meaning} | {names} |\n")
    return "".join(rows)


def reference() -> str:
    """Return the page."""
    parts = [HEADER + exit_codes()]
    for name, text in pages(root(), ("counterfoil",)):
        parts.append(f"## `{name}`\n\n```\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
