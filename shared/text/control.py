"""Control tokens: where a chat template wrote them, and what a tokenizer must satisfy for that to be unambiguous.

Control tokens are the added tokens that the tokenizer marks as special. They count only where all of their characters were
written by the template. Everywhere else their spelling is text; other added tokens are vocabulary, which a message may use too.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from shared.runtime.errors import Code, CounterfoilError
from shared.text.marked import Marked

SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space, which a token's `lstrip` and `rstrip` consume."""
LOCAL_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"})
"""Normalizers that give the same result for a text's parts as for the whole, if the parts end in plain characters."""
CONTEXTS = ("{}", " {}", "{} ", " {} ", "a{}b", "a {} b", "\n{}\n")


class ControlTokens:
    """Finds control tokens in what a template wrote. UNSUPPORTED, by name, if messages could create or destroy one."""

    def __init__(self, added: Mapping[int, AddedToken], normalizer: Any, backend: Backend) -> None:
        self._added = dict(added)
        self.ids = frozenset(token for token, entry in added.items() if entry.special)
        _check_flags(added, _is_local(normalizer), backend)
        self._first = _Spellings({t: e for t, e in added.items() if not e.normalized})
        self._later = _Spellings({t: e for t, e in added.items() if e.normalized and e.special})
        self._spellings = tuple(added[token].content for token in self.ids)

    def spelled_in(self, text: str) -> bool:
        """Return whether a text spells a control token."""
        return any(spelling in text for spelling in self._spellings)

    def split(self, rendered: Marked) -> Iterator[str | int]:
        """Yield texts and the control tokens between them: text, token, text, …, text."""
        at = 0
        text, strip = "", False
        for start, stop, token in self._places(rendered):
            text = rendered[at:start]
            text = text.lstrip(SPACE) if strip else text
            yield text.rstrip(SPACE) if self._added[token].lstrip else text
            yield token
            at, strip = stop, self._added[token].rstrip
        text = rendered[at:]
        yield text.lstrip(SPACE) if strip else text

    def _places(self, rendered: Marked) -> Iterator[tuple[int, int, int]]:
        """Yield (start, stop, token) of control tokens, each entirely within one piece that the template wrote."""
        text = str.__str__(rendered)
        for run in re.finditer(rb"\x01+", rendered.marks):
            at = run.start()
            for start, stop, token in [*self._first.find(text, at, run.end()), (run.end(), 0, -1)]:
                yield from self._later.find(text, at, start)
                if token in self.ids:
                    yield start, stop, token
                at = stop


class _Spellings:
    """Finds, one after the other, the leftmost and there the longest of some spellings."""

    def __init__(self, entries: Mapping[int, AddedToken]) -> None:
        self._tokens = {entry.content: token for token, entry in entries.items()}
        self._sizes: dict[str, list[int]] = {}
        for spelling in sorted(self._tokens, key=len, reverse=True):
            sizes = self._sizes.setdefault(spelling[0], [])
            if len(spelling) not in sizes:
                sizes.append(len(spelling))
        heads = "".join(map(re.escape, self._sizes))
        self._head = re.compile(f"[{heads}]") if heads else None

    def find(self, text: str, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        while self._head is not None and (head := self._head.search(text, at, end)):
            at = head.start() + 1
            for size in self._sizes[head[0]]:
                stop = head.start() + size
                token = self._tokens.get(text[head.start() : stop]) if stop <= end else None
                if token is not None:
                    yield head.start(), stop, token
                    at = stop
                    break


def _check_flags(added: Mapping[int, AddedToken], local: bool, backend: Backend) -> None:
    """Raise UNSUPPORTED for a control token whose position depends on the adjacent text of a message."""
    control = [entry for entry in added.values() if entry.special]
    others = [entry for entry in added.values() if not entry.special]
    words = any(entry.single_word and not entry.normalized for entry in others)
    for entry in control:
        spelling = entry.content
        if entry.single_word:
            raise _unclear(spelling, "counts only as a word of its own")
        if words and (_is_word(spelling[0]) or _is_word(spelling[-1])):
            raise _unclear(spelling, "counts as a letter next to added tokens that are words")
        if entry.normalized and not (local and _normalized(backend, spelling) == spelling):
            raise _unclear(spelling, "is matched in normalized text")
        for other in added.values():
            if (entry.rstrip and other.content[0] in SPACE) or (
                entry.lstrip and other.content[-1] in SPACE
            ):
                raise _unclear(spelling, "consumes white space that is also an added token")


def check_unspelled(control: frozenset[int], backend: Backend) -> None:
    """Raise UNSUPPORTED for a control token as which ordinary text can be read; `backend` encodes text."""
    for token in sorted(control):
        spelling = str(backend.id_to_token(token))
        for context in CONTEXTS:
            if token in backend.encode(context.format(spelling), add_special_tokens=False).ids:
                raise _unclear(spelling, "is also a word of the vocabulary")


def unknown_token(serialised: Mapping[str, Any], backend: Backend) -> int | None:
    """Return the model's token for text that is not in its vocabulary."""
    model = serialised.get("model") or {}
    if isinstance(model.get("unk_token"), str):
        return backend.token_to_id(model["unk_token"])
    return model["unk_id"] if isinstance(model.get("unk_id"), int) else None


def _unclear(spelling: str, why: str) -> CounterfoilError:
    return CounterfoilError(
        Code.UNSUPPORTED, f"the tokenizer's control token {json.dumps(spelling[:80])} {why}"
    )


def _normalized(backend: Backend, text: str) -> str:
    return str(backend.normalizer.normalize_str(text)) if backend.normalizer is not None else text


def _is_local(normalizer: Any) -> bool:
    if normalizer is None:
        return True
    if normalizer.get("type") == "Sequence":
        return all(map(_is_local, normalizer.get("normalizers", ())))
    return normalizer.get("type") in LOCAL_NORMALIZERS


def _is_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M" or character == "_"
