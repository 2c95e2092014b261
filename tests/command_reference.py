"""`python -m tests.command_reference` prints docs/commands.md: every command's own help, so that neither drifts."""

from collections.abc import Iterator

import click

from shared.runtime.cli import root

HEADER = """# Commands

Made from the commands' own `--help` by `make generate`. Exit codes are explained at the end of `counterfoil --help`.
"""


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


def reference() -> str:
    """Return the page."""
    parts = [HEADER]
    for name, text in pages(root(), ("counterfoil",)):
        parts.append(f"## `{name}`\n\n```\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
