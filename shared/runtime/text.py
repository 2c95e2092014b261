"""Text as other programs take it: UTF-8, and words that a shell reads back unchanged."""

import shlex
from pathlib import Path


def is_text(value: str | Path) -> bool:
    """Tell whether a name or an argument is UTF-8, so that it can be printed, sent and written to a file."""
    try:
        str(value).encode("utf-8")
    except UnicodeEncodeError:  # bytes of the system that are no text come as lone surrogates
        return False
    return True


def export_line(name: str, value: str | Path) -> str:
    """Return the line that sets an environment variable in a POSIX shell, whatever the value is."""
    return f"export {name}={shlex.quote(str(value))}"


def command_line(*words: str | Path) -> str:
    """Return words as a POSIX shell takes them."""
    return shlex.join(map(str, words))
