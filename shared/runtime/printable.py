"""Text that is safe for other programs: UTF-8, words that a shell reads back unchanged, no terminal controls."""

import shlex
import unicodedata
from pathlib import Path
from typing import Final

_KEPT: Final = frozenset("\n\t\u061c\u200c\u200d\u200e\u200f")
"""Newlines and tabs, and the marks and joiners that Arabic, Hebrew, Indic scripts and emoji need."""
_STEERING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, formats (including direction overrides), surrogates and line separators."""


def for_terminal(text: str) -> str:
    """Return a stranger's text so that a terminal only displays it: control characters are spelled out, as `\\x1b`.
    It works character by character, so a text may be passed in parts.
    """
    return "".join(map(_spelled, text)) if _steers(text) else text


def printable(text: str, most: int, instead: str = "?") -> str:
    """Return the first `most` characters of a stranger's text on one line, with `instead` for unprintable ones."""
    return "".join(c if c.isprintable() else instead for c in text[:most])


def json_for_terminal(encoded: str) -> str:
    """Return equivalent JSON in which terminal control characters are escaped."""
    return "".join(map(_escaped, encoded)) if _steers(encoded) else encoded


def _steers(text: str) -> bool:
    return not text.isprintable() and any(
        c not in _KEPT and unicodedata.category(c) in _STEERING for c in text
    )


def _spelled(c: str) -> str:
    if not _steers(c):
        return c
    code = ord(c)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def _escaped(c: str) -> str:
    if not _steers(c):
        return c
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def is_text(value: str | Path) -> bool:
    """Return whether a name or an argument is UTF-8, so that it can be printed, sent and written to a file."""
    try:
        str(value).encode("utf-8")
    except UnicodeEncodeError:  # the system's non-text bytes appear as lone surrogates
        return False
    return True


def export_line(name: str, value: str | Path) -> str:
    """Return the line that sets an environment variable in a POSIX shell, whatever the value is."""
    return f"export {name}={shlex.quote(str(value))}"


def command_line(*words: str | Path) -> str:
    """Return words quoted for a POSIX shell."""
    return shlex.join(map(str, words))
