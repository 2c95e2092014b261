"""Strings that know which of their characters the chat template itself wrote.

A template works on the true contents. What it writes itself (its text, its string constants, the names of special tokens,
the roles) is marked, character by character; what comes from a message is not. The operations below copy marks along with
characters. Every other operation gives unmarked text, so no part of a message is ever taken for the template's.
"""
# ruff: noqa: D102  # methods of str, which documents them

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, SupportsIndex

from shared.runtime.errors import Code, CounterfoilError

MAX_RENDERED = 4 << 20
"""Longest string, in characters, that a template may create."""
WRITTEN, GIVEN = b"\x01", b"\x00"
MAX_PARTS = 1 << 18
"""Most parts, or single characters, into which a string may be split."""


class TooLongError(CounterfoilError):
    """A template creates a string that is longer than any prompt, or splits one into too many parts."""

    def __init__(self) -> None:
        super().__init__(Code.INVALID_ARGUMENT, "the chat template writes too much")


class Marked(str):
    """A string with a byte for each character: 1 where the template wrote it, 0 elsewhere."""

    __slots__ = ("marks",)
    marks: bytes

    def __new__(cls, text: object = "", marks: bytes | None = None) -> Self:
        """Mark text; without `marks` it keeps the ones that it has, and a plain string has none."""
        made = super().__new__(cls, text)
        known = text.marks if isinstance(text, Marked) else GIVEN * len(made)
        made.marks = known if marks is None else marks
        assert len(made.marks) == len(made)
        return made

    @classmethod
    def written(cls, text: str) -> Self:
        """Return text that the template wrote."""
        return cls(text, WRITTEN * len(text))

    def __str__(self) -> str:
        """Return self: str() would drop the marks."""
        return self

    def __add__(self, other: object) -> "Marked":
        """Append."""
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> "Marked":
        """Prepend; Python asks the right operand first if its type is a subclass."""
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> "Marked":
        """Repeat."""
        if len(self) * max(0, times.__index__()) > MAX_RENDERED:
            raise TooLongError
        return Marked(super().__mul__(times), self.marks * times.__index__())

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> "Marked":
        """Take a part."""
        text = super().__getitem__(key)
        if isinstance(key, slice):
            return Marked(text, self.marks[key])
        at = key.__index__() % len(self)
        return Marked(text, self.marks[at : at + 1])

    def __iter__(self) -> Iterator["Marked"]:
        """Yield characters; TooLongError for too many."""
        _check_parts(len(self))
        return (self[at] for at in range(len(self)))

    def lstrip(self, chars: str | None = None, /) -> "Marked":
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None, /) -> "Marked":
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None, /) -> "Marked":
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> "Marked":
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str, /) -> "Marked":
        return self[: len(super().removesuffix(suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list["Marked"]:  # type: ignore[override]
        parts = super().split(sep, maxsplit)
        return self._words(parts) if sep is None else self._cut(parts, len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list["Marked"]:  # type: ignore[override]
        parts = super().rsplit(sep, maxsplit)
        return self._words(parts) if sep is None else self._cut(parts, len(sep))

    def partition(self, sep: str, /) -> tuple["Marked", "Marked", "Marked"]:
        first, middle, last = self._cut(super().partition(sep))
        return first, middle, last

    def rpartition(self, sep: str, /) -> tuple["Marked", "Marked", "Marked"]:
        first, middle, last = self._cut(super().rpartition(sep))
        return first, middle, last

    def splitlines(self, keepends: bool = False) -> list["Marked"]:  # type: ignore[override]
        lines = self._cut(super().splitlines(keepends=True))
        if keepends:
            return lines
        return [line[: len(bare)] for line, bare in zip(lines, super().splitlines(), strict=True)]

    def join(self, parts: Iterable[str], /) -> "Marked":
        items = list(parts)
        return concat(
            part for at, item in enumerate(items) for part in ((self, item) if at else (item,))
        )

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> "Marked":
        most = count.__index__()
        times = super().count(old) if most < 0 else min(most, super().count(old))
        if len(self) + times * (len(new) - len(old)) > MAX_RENDERED:
            raise TooLongError
        text = super().replace(old, new, count)
        if not old:
            return Marked(text)
        marks, at = [], 0
        for part in super().split(old, count):
            marks.append(self.marks[at : at + len(part)])
            at += len(part) + len(old)
        return Marked(text, Marked(new).marks.join(marks))

    def lower(self) -> "Marked":
        return self._changed(super().lower)

    def upper(self) -> "Marked":
        return self._changed(super().upper)

    def capitalize(self) -> "Marked":
        return self._changed(super().capitalize)

    def title(self) -> "Marked":
        return self._changed(super().title)

    def _changed(self, change: Callable[[], str]) -> "Marked":
        """Return it in another case; marks are kept if no character became several."""
        text = change()
        return Marked(text, self.marks if len(text) == len(self) else None)

    def _cut(self, parts: Sequence[str], gap: int = 0) -> list["Marked"]:
        """Return parts with their marks; there are `gap` characters between two of them."""
        _check_parts(len(parts))
        found, at = [], 0
        for part in parts:
            found.append(self[at : at + len(part)])
            at += len(part) + gap
        return found

    def _words(self, parts: Sequence[str]) -> list["Marked"]:
        """Return parts with their marks; they are separated by white space, with which only the first one may begin."""
        _check_parts(len(parts))
        found, at = [], 0
        for part in parts:
            at = self.index(part, at)
            found.append(self[at : at + len(part)])
            at += len(part)
        return found


def _check_parts(count: int) -> None:
    if count > MAX_PARTS:
        raise TooLongError


def concat(parts: Iterable[Any]) -> Marked:
    """Join strings; TooLongError as soon as they are too long. What a filter left unmarked stays unmarked."""
    texts, size = [], 0
    for part in parts:
        if not isinstance(part, str):
            raise TypeError(f"a string was expected, not {type(part).__name__}")
        size += len(part)
        if size > MAX_RENDERED:
            raise TooLongError
        texts.append(part)
    marks = (part.marks if isinstance(part, Marked) else GIVEN * len(part) for part in texts)
    return Marked("".join(texts), b"".join(marks))
