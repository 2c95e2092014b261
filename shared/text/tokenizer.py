"""A checkpoint's tokenizer, with its chat template.

A conversation has the tokens of Hugging Face's `apply_chat_template`: the template is rendered on the true contents, and its
output is encoded as the library does, except for control tokens (`control`): they are recognised only where the template
itself wrote them (`marked`). What a user writes is encoded as text, even a control token's spelling, so no message can end a
turn or begin another. (If a model marks turns with plain text, such as `[INST]`, or with added tokens that it does not mark as
special, a message can spell that too, as with any implementation.)

A plain prompt is encoded as text, with the special tokens that the tokenizer's post-processor puts around a text (for Llama and
Mistral the beginning-of-sequence token; for most others none).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import Message
from shared.text.control import ControlTokens, check_unspelled, unknown_token
from shared.text.declared import check_declared, named
from shared.text.files import read_file, read_json_if_there
from shared.text.library import told_as
from shared.text.marked import Marked
from shared.text.template import ChatTemplate

MAX_TEXT = 4 << 20
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A token that stands for one byte, if the vocabulary has no better one (byte fallback)."""
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""The files that define a folder's tokenizer and template."""
FAILS = "the tokenizer fails on this text"


class Tokenizer:
    """Encodes and decodes; deterministic and thread-safe."""

    def __init__(
        self,
        backend: Backend,
        template: str | None,
        stops: Sequence[int],
        names: Mapping[str, str] | None = None,
    ) -> None:
        serialised = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
        later = _not_first(serialised)
        self._backend = _text_backend(serialised)
        """Never reads text as a control token."""
        self._later = self._backend if later == serialised else _text_backend(later)
        """The same, for text that follows a control token."""
        added = self._backend.get_added_tokens_decoder()
        self._control = ControlTokens(added, serialised.get("normalizer"), self._backend)
        unknown = unknown_token(serialised, self._backend)
        self._never = self._control.ids - ({unknown} - frozenset(stops))
        """Tokens as which no text may be encoded. The token for unknown text is allowed, unless it ends an answer."""
        check_unspelled(self._never, self._backend)
        self._template = None if template is None else ChatTemplate(template, names or {})
        self._bytes = _byte_tokens(serialised, self._backend)
        self.stop_tokens = frozenset(stops)
        """Tokens that end an answer."""

    @classmethod
    def from_folder(cls, folder: Path, stops: Sequence[int] = ()) -> Self:
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja.

        MALFORMED names the file that is not valid.
        """
        path = folder / "tokenizer.json"
        data = read_file(path)
        if data is None:
            raise CounterfoilError(Code.CONFIGURATION, f"{path} is missing")
        template, names = _chat_settings(folder)
        with told_as(Code.MALFORMED, f"{path} is not a tokenizer"):
            backend = Backend.from_str(data.decode("utf-8"))
            check_declared(folder, backend.get_added_tokens_decoder(), template)
            return cls(backend, template, stops, names)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def rows(self) -> int:
        """The number of rows that the embedding must have: one more than the largest token."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def longest_token(self) -> int:
        """UTF-8 length of the longest token's spelling, in bytes."""
        spellings = self._backend.get_vocab(with_added_tokens=True)
        return max((len(spelling.encode("utf-8")) for spelling in spellings), default=1)

    @property
    def has_template(self) -> bool:
        """Return whether it accepts messages."""
        return self._template is not None

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode text alone; special tokens are never produced. MALFORMED for text that is not Unicode."""
        check_text(text)
        return tuple(self._text(text).ids)

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Encode a plain prompt, with the tokens that the post-processor puts around a text; an empty text has no tokens."""
        check_text(text)
        encoding = self._text(text)
        if not encoding.ids:
            return ()
        with told_as(Code.INVALID_ARGUMENT, FAILS):
            return tuple(self._backend.post_process(encoding, add_special_tokens=True).ids)

    def encode_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode a conversation with the chat template, ready for the assistant's answer."""
        if self._template is None:
            raise CounterfoilError(Code.UNSUPPORTED, "the model has no chat template")
        for message in messages:
            check_text(message.content)
        shown = [{"role": message.role, "content": message.content} for message in messages]
        rendered = self._template.render(shown)
        check_text(rendered)
        return tuple(self._encode_marked(rendered, messages))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special tokens have none."""
        with told_as(Code.INVALID_ARGUMENT, FAILS):
            if self._bytes.keys().isdisjoint(tokens):
                return str(self._backend.decode(list(tokens), skip_special_tokens=True))
            return str(self._backend.decoder.decode(list(self._pieces(tokens))))

    def is_silent(self, token: int) -> bool:
        """Return whether a token has no text: a special one, or one beyond the tokenizer's vocabulary."""
        return token in self._control.ids or self._backend.id_to_token(token) is None

    def _text(self, text: str, *, first: bool = True) -> Encoding:
        """Encode text without control tokens; `first` unless one precedes it."""
        backend = self._backend if first else self._later
        with told_as(Code.INVALID_ARGUMENT, FAILS):
            encoding = backend.encode(text, add_special_tokens=False)
        if not self._never.isdisjoint(encoding.ids):
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "the tokenizer reads a part of the text as a control token"
            )
        return encoding

    def _encode_marked(self, rendered: Marked, messages: Sequence[Message]) -> Iterator[int]:
        """Yield the tokens of a rendered template."""
        first = True
        for part in self._control.split(rendered):
            if isinstance(part, int):
                yield part
                first = False
            elif part:
                self._check_marks(part, messages)
                yield from self._text(part, first=first).ids

    def _check_marks(self, text: str, messages: Sequence[Message]) -> None:
        """Raise UNSUPPORTED for a control token that no message spelled: the template created it, and its marks were lost."""
        if self._control.spelled_in(text) and not any(
            self._control.spelled_in(message.content) for message in messages
        ):
            raise CounterfoilError(
                Code.UNSUPPORTED,
                "the chat template creates a control token in a way that cannot be distinguished from a message's text",
            )

    def _pieces(self, tokens: Sequence[int]) -> Iterator[str]:
        """Yield the spellings of tokens, with an empty one after each character that consists of byte tokens.
        The library reads a run of byte tokens as a whole: one byte that is not UTF-8 spoils all characters before it, so that
        text already shown would change. The empty spellings end the run after every character and every stray byte.
        """
        run = bytearray()
        for token in tokens:
            byte = self._bytes.get(token)
            if byte is not None:
                run.append(byte)
            elif not self.is_silent(token):
                yield from _characters(bytes(run))
                run.clear()
                yield str(self._backend.id_to_token(token))
        yield from _characters(bytes(run))


def check_text(text: str) -> None:
    """Raise MALFORMED unless the text is Unicode without lone surrogates, INVALID_ARGUMENT if it is too long."""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise CounterfoilError(Code.MALFORMED, "the text is not valid Unicode") from error
    if size > MAX_TEXT:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"the text is longer than {MAX_TEXT} bytes")


def _text_backend(serialised: Mapping[str, Any]) -> Backend:
    """Return a tokenizer that reads control tokens' spellings as text."""
    backend = Backend.from_str(json.dumps(serialised))
    backend.encode_special_tokens = True
    return backend


def _not_first(serialised: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer for texts after the first: it omits the leading space that only the first one gets."""

    def changed(step: Any) -> Any:
        if isinstance(step, list):
            return [changed(item) for item in step]
        if not isinstance(step, dict):
            return step
        inner = {name: changed(value) for name, value in step.items()}
        return {**inner, "prepend_scheme": "never"} if _only_first(step) else inner

    return {**serialised, "pre_tokenizer": changed(serialised.get("pre_tokenizer"))}


def _only_first(step: Mapping[str, Any]) -> bool:
    return step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first"


def _byte_tokens(serialised: Mapping[str, Any], backend: Backend) -> dict[int, int]:
    """Return the tokens that stand for a byte, if the decoder reads them as such."""
    if '"ByteFallback"' not in json.dumps(serialised.get("decoder")):
        return {}
    vocabulary = backend.get_vocab(with_added_tokens=False)
    found = {token: BYTE.fullmatch(piece) for piece, token in vocabulary.items()}
    return {token: int(match[1], 16) for token, match in found.items() if match}


def _characters(run: bytes) -> Iterator[str]:
    """Yield byte spellings, with an empty one after each UTF-8 character and each stray byte."""
    at = 0
    while at < len(run):
        size = next((n for n in (1, 2, 3, 4) if _is_character(run[at : at + n])), 1)
        yield from (f"<0x{byte:02X}>" for byte in run[at : at + size])
        yield ""
        at += size


def _is_character(data: bytes) -> bool:
    try:
        return len(data.decode("utf-8")) == 1
    except UnicodeDecodeError:
        return False


def _chat_settings(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Return the chat template and the special tokens' spellings that it may use.

    As in Hugging Face: the file chat_template.jinja takes precedence over tokenizer_config.json; if that has several
    templates, the one named `default` is used.
    """
    path = folder / "tokenizer_config.json"
    data = read_json_if_there(path)
    names = named(data)
    file = folder / "chat_template.jinja"
    content = read_file(file)
    if content is None:
        return _default_template(path, data.get("chat_template")), names
    try:
        return content.decode("utf-8"), names
    except UnicodeDecodeError as error:
        raise CounterfoilError(Code.MALFORMED, f"{file} is not UTF-8") from error


def _default_template(path: Path, found: Any) -> str | None:
    if found is None or isinstance(found, str):
        return found
    if not isinstance(found, list) or not all(
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("template"), str)
        for item in found
    ):
        raise CounterfoilError(Code.MALFORMED, f"{path}: chat_template is not valid")
    default = [item["template"] for item in found if item["name"] == "default"]
    if len(default) != 1:
        raise CounterfoilError(
            Code.UNSUPPORTED, f"{path}: one of several chat templates must be named `default`"
        )
    return str(default[0])
