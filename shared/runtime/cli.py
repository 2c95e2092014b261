"""The root of the command line: `counterfoil <command> …`.

Commands come from the entry points of the group `counterfoil.commands`, so each layer registers its own;
the name `audit.witness` puts a command into the group `audit`. A command's module is imported when it
is invoked or listed, and imports heavy packages only inside its functions.

Failures end here: one paragraph on standard error, and an exit code that scripts can use (`EXIT_CODES`).
A command may also return its exit code.
"""

import errno
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Final, NoReturn

import click

from shared.runtime import logs
from shared.runtime.core_dumps import forbid_core_dumps
from shared.runtime.errors import Code, CounterfoilError, sentences
from shared.runtime.printable import for_terminal, is_text

ENTRY_POINTS: Final = "counterfoil.commands"
INTERRUPTED: Final = 130
USAGE: Final = 2

EXIT_CODES: Final[Mapping[Code, int]] = {
    # 2: the command or its configuration asks for something impossible
    Code.CONFIGURATION: USAGE,
    Code.INVALID_ARGUMENT: USAGE,
    Code.UNSUPPORTED: USAGE,
    Code.DEADLINE_REQUIRED: USAGE,
    # 3: the evidence does not verify
    Code.MALFORMED: 3,
    Code.UNREADABLE: 3,
    Code.BAD_SIGNATURE: 3,
    Code.UNTRUSTED_KEY: 3,
    Code.BAD_PROOF: 3,
    Code.FORK: 3,
    Code.EQUIVOCATION: 3,
    Code.NOT_WITNESSED: 3,
    Code.COMMITMENT_MISMATCH: 3,
    Code.CORRUPT: 3,
    # 4: not found, or not permitted
    Code.NOT_FOUND: 4,
    Code.ERASED: 4,
    Code.UNKNOWN_MODEL: 4,
    Code.UNAUTHENTICATED: 4,
    Code.FORBIDDEN: 4,
    Code.NO_ORDER: 4,
    # 5: not now; try again
    Code.UNAVAILABLE: 5,
    Code.DRAINING: 5,
    Code.OVERLOADED: 5,
    Code.QUOTA: 5,
    Code.DEADLINE: 5,
    # 6: conflicts with the present state
    Code.CONFLICT: 6,
    Code.REPLAYED: 6,
    Code.EXPIRED: 6,
    Code.STALE_KEY: 6,
    # 1: anything else
    Code.CANCELLED: 1,
    Code.INTERNAL: 1,
}
EPILOG: Final = (
    "Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 verification failed; 4 not found or not"
    " permitted; 5 unavailable, try again; 6 conflict with the present state; 130 interrupted."
)

EXPORTED: Final = (
    "`counterfoil up` prints `export` lines that set this variable and others, to copy."
)

_log = logging.getLogger(__name__)


class LazyGroup(click.Group):
    """A group whose members are entry points, loaded when they are needed.

    A name with a dot belongs to the group before the dot; such members are also added to a group that is
    an entry point itself.
    """

    def __init__(self, *, entries: Mapping[str, metadata.EntryPoint], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._entries = dict(entries)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all members, loaded or not."""
        lazy = {name.partition(".")[0] for name in self._entries}
        return sorted({*super().list_commands(ctx), *lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a member, importing its module."""
        prefix = f"{cmd_name}."
        nested = {
            name.removeprefix(prefix): entry
            for name, entry in self._entries.items()
            if name.startswith(prefix)
        }
        entry = self._entries.get(cmd_name)
        command = super().get_command(ctx, cmd_name) if entry is None else _load(cmd_name, entry)
        if not nested:
            return command
        merged = LazyGroup(entries=nested, name=cmd_name)
        if isinstance(command, click.Group):
            merged.help, merged.short_help = command.help, command.short_help
            merged.params, merged.callback = command.params, command.callback
            merged.commands = dict(command.commands)
        return merged


def _load(name: str, entry: metadata.EntryPoint) -> click.Command:
    """Return the command of an entry point, or one that says which package is missing."""
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        if (missing := _missing_package(error)) is None:
            raise
        return _unavailable(name, entry, missing)
    if not isinstance(command, click.Command):
        raise CounterfoilError(Code.INTERNAL, f"{entry.value} is not a command")
    return command


def _missing_package(error: ModuleNotFoundError) -> str | None:
    """Return the package that is not installed; None if a module of our own is missing."""
    missing = (error.name or "a package").partition(".")[0]
    return (
        None if missing in {"shared", "execution_layer", "audit_layer", "migrations"} else missing
    )


def _unavailable(name: str, entry: metadata.EntryPoint, missing: str) -> click.Command:
    extra = {"execution_layer": "node", "audit_layer": "audit"}.get(
        entry.value.partition(".")[0], "all"
    )
    remedy = f"Run: pip install 'counterfoil[{extra}]'"

    def explain() -> NoReturn:
        raise _not_installed(f"`{name}`", missing, remedy)

    return click.Command(
        name,
        callback=explain,
        params=[click.Argument(["ignored"], nargs=-1, type=click.UNPROCESSED, expose_value=False)],
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
        short_help=f"(needs {missing}) {remedy}",
    )


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        try:
            click.echo(f"counterfoil {metadata.version('counterfoil')}")
        except metadata.PackageNotFoundError:
            click.echo("counterfoil (not installed)")
        ctx.exit()


def _configure(
    ctx: click.Context, log_name: str | None, log_level: str, log_format: str, traceback: bool
) -> None:
    ctx.meta["counterfoil.traceback"] = traceback
    logs.configure(
        log_name or _command_name(ctx) or "counterfoil",
        level=log_level,
        style="json" if log_format == "json" else "text" if log_format == "text" else "auto",
    )


def _command_name(ctx: click.Context) -> str:
    """Return the words that name the command about to run, such as `audit worker`, without its arguments."""
    words: list[str] = []
    given: Sequence[str] = ctx.obj or ()
    command: click.Command | None = ctx.command
    rest = given[given.index(ctx.invoked_subcommand) :] if ctx.invoked_subcommand in given else []
    for word in rest:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(ctx, word)
        if command is not None and word != "serve":
            words.append(word)
    return " ".join(words)


def root() -> click.Group:
    """Return the command tree with every registered command."""
    entries = {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
    return LazyGroup(
        entries=entries,
        name="counterfoil",
        help="Private inference on GPUs you do not own, with proof of what ran and what it should cost.",
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        callback=click.pass_context(_configure),
        params=[
            click.Option(
                ["--log-name"],
                envvar="COUNTERFOIL_LOG_NAME",
                help="Name of this process in its log lines [default: the command].",
            ),
            click.Option(
                ["--log-level"],
                type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
                default="info",
                envvar="COUNTERFOIL_LOG_LEVEL",
                show_default=True,
                help="Lowest severity to log on standard error.",
            ),
            click.Option(
                ["--log-format"],
                type=click.Choice(["auto", "json", "text"]),
                default="auto",
                envvar="COUNTERFOIL_LOG_FORMAT",
                show_default=True,
                help="auto: text on a terminal, JSON elsewhere.",
            ),
            click.Option(
                ["--traceback"],
                is_flag=True,
                envvar="COUNTERFOIL_TRACEBACK",
                help="Show where in the program an error was raised.",
            ),
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_print_version,
                help="Show the version and exit.",
            ),
        ],
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; the only place where errors become messages."""
    forbid_core_dumps()
    os.umask(0o077)  # what others may read is given its mode where it is written
    given = list(sys.argv[1:] if arguments is None else arguments)
    settle_streams()
    try:
        code = run(root(), given)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1  # click's own code when the pipe breaks earlier
    sys.exit(code)


def settle_streams() -> None:
    """Use UTF-8 whatever the locale says; a terminal keeps its encoding, and shows `?` for what it cannot encode."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream is sys.stdin:
            stream.reconfigure(errors="strict", encoding=None if stream.isatty() else "utf-8")
        elif stream.isatty():
            stream.reconfigure(errors="replace")
        else:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def run(command: click.Command, arguments: Sequence[str]) -> int:
    """Run `command` and return the exit code; everything but a broken pipe is handled."""
    try:
        _check_text(arguments)
        result = command.main(
            args=list(arguments),
            prog_name="counterfoil",
            standalone_mode=False,
            obj=tuple(arguments),
        )
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.MissingParameter) and _is_exported(error.param):
            click.echo(EXPORTED, err=True)
        return error.exit_code
    except click.Abort as error:
        return INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else 1
    except CounterfoilError as error:
        _show(error, arguments)
        return EXIT_CODES[error.code]
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  # the boundary of the program
        if (known := _of_the_input(error)) is not None:
            _show(known, arguments, error)
            return EXIT_CODES[known.code]
        if isinstance(error, ModuleNotFoundError) and (missing := _missing_package(error)):
            remedy = "Run: pip install 'counterfoil[node]', 'counterfoil[audit]', 'counterfoil[proxy]' or 'counterfoil[all]'"
            _show(_not_installed("this command", missing, remedy), arguments, error)
            return EXIT_CODES[Code.CONFIGURATION]
        _show(CounterfoilError(Code.INTERNAL, f"{type(error).__name__}: {error}"), arguments, error)
        return EXIT_CODES[Code.INTERNAL]
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _is_exported(parameter: click.Parameter | None) -> bool:
    """Return whether one of our variables can set this option."""
    variable = None if parameter is None else parameter.envvar
    return isinstance(variable, str) and variable.startswith("COUNTERFOIL_")


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not text: they could be neither sent nor written to a configuration."""
    for number, argument in enumerate(arguments, 1):
        if not is_text(argument):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"argument {number} is not UTF-8 text: {os.fsencode(argument)!r}",
                remedy="Write it in UTF-8; rename a file or folder that has this name."
                if sys.getfilesystemencoding() == "utf-8"
                else "Choose a UTF-8 locale: with this one, Python accepts text in its own encoding only.",
            )


def _of_the_input(error: Exception) -> CounterfoilError | None:
    """Return the error if the caller caused it: input that is not text, an unusable file, a full disk."""
    if isinstance(error, UnicodeError):
        why = (
            f"{error.reason} at position {error.start}"
            if isinstance(error, UnicodeDecodeError | UnicodeEncodeError)
            else str(error)
        )
        return CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"the input is not UTF-8 text ({why})",
            remedy="Write it in UTF-8.",
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return CounterfoilError(
            Code.UNAVAILABLE,
            f"there is no space left {f'for {error.filename}' if error.filename else 'on the disk'}",
            remedy="Free some space, and run it again.",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return CounterfoilError(
            Code.CONFIGURATION,
            f"{error.filename} cannot be used: {error.strerror}",
            remedy="Correct its name or its permissions.",
        )
    return None


def _not_installed(what: str, missing: str, remedy: str) -> CounterfoilError:
    return CounterfoilError(
        Code.CONFIGURATION,
        f"{what} needs the package {missing}, which is not installed",
        remedy=remedy,
    )


def _show(
    error: CounterfoilError, arguments: Sequence[str], cause: BaseException | None = None
) -> None:
    """Print what went wrong, where, and what to do next; the traceback if requested."""
    if "--traceback" in arguments or os.environ.get("COUNTERFOIL_TRACEBACK"):
        import traceback  # noqa: PLC0415  # rarely needed

        traceback.print_exception(cause or error)
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    remedy = error.remedy
    if remedy is None and cause is not None:
        remedy = "Run again with `counterfoil --traceback …` to see where it was raised."
    told = "\n".join(sentences(error.detail, remedy))
    click.secho(for_terminal(told), fg="red", err=True)


if __name__ == "__main__":
    main()
