"""A checkpoint's tokenizer and chat template.

What a user writes is encoded as text: a special token's spelling inside a message is only text, so no message can end a turn or
begin another. The template is rendered with placeholders for the contents, and only the template's own parts are encoded
with special tokens.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as Backend

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import Message

MAX_TEXT = 4 << 20
MARK = "\ue000{}\ue001"
"""Placeholder for the content of message N while the template is rendered (private-use characters)."""


class Tokenizer:
    """Encodes and decodes; deterministic and safe to share between threads."""

    def __init__(
        self,
        backend: Backend,
        template: str | None,
        stops: Sequence[int],
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._backend = backend
        self._plain = Backend.from_str(_without_specials(backend.to_str()))
        self._template = None if template is None else _compile(template)
        self._names = dict(names or {})
        self._specials = frozenset(
            token for token, added in backend.get_added_tokens_decoder().items() if added.special
        )
        self.stop_tokens = frozenset(stops)
        """Tokens that end an answer."""

    @classmethod
    def from_folder(cls, folder: Path, stops: Sequence[int] = ()) -> Self:
        """Read tokenizer.json and tokenizer_config.json; MALFORMED names the file that is not as it must be."""
        path = folder / "tokenizer.json"
        try:
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CounterfoilError(Code.CONFIGURATION, f"{path} is missing") from error
        except Exception as error:  # the tokenizers package raises bare Exception
            raise CounterfoilError(Code.MALFORMED, f"{path} is not a tokenizer") from error
        template, names = _chat_settings(folder)
        return cls(backend, template, stops, names)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode plain text; special tokens are never produced. MALFORMED for text that is not Unicode."""
        check_text(text)
        ids = tuple(self._plain.encode(text, add_special_tokens=False).ids)
        if not self._specials.isdisjoint(ids):  # a vocabulary that spells special tokens as words
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "the tokenizer takes a part of the text for a special token"
            )
        return ids

    def encode_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode a conversation under the chat template, ready for the assistant's answer."""
        if self._template is None:
            raise CounterfoilError(Code.UNSUPPORTED, "the model has no chat template")
        shown = [
            {"role": message.role, "content": MARK.format(place)}
            for place, message in enumerate(messages)
        ]
        try:
            text = self._template.render(messages=shown, add_generation_prompt=True, **self._names)
        except Exception as error:  # a template can make any operation fail
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "the chat template does not take these roles in this order"
            ) from error
        return tuple(self._join(text, messages))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special tokens have none."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=True))

    def is_silent(self, token: int) -> bool:
        """Say whether a token has no text: a special one, or one beyond the tokenizer's vocabulary."""
        return token in self._specials or self._backend.id_to_token(token) is None

    def _join(self, rendered: str, messages: Sequence[Message]) -> list[int]:
        ids: list[int] = []
        for place, message in enumerate(messages):
            before, found, rendered = rendered.partition(MARK.format(place))
            if not found or MARK[0] in before:
                raise CounterfoilError(
                    Code.UNSUPPORTED, "the chat template leaves out, repeats or reorders messages"
                )
            ids.extend(self._backend.encode(before, add_special_tokens=False).ids)
            ids.extend(self.encode(message.content))
        if MARK[0] in rendered:
            raise CounterfoilError(Code.UNSUPPORTED, "the chat template repeats messages")
        ids.extend(self._backend.encode(rendered, add_special_tokens=False).ids)
        return ids


def check_text(text: str) -> None:
    """Raise MALFORMED unless the text is Unicode without lone surrogates and of bearable size."""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise CounterfoilError(Code.MALFORMED, "the text is not valid Unicode") from error
    if size > MAX_TEXT:
        raise CounterfoilError(Code.INVALID_ARGUMENT, f"the text has more than {MAX_TEXT} bytes")


def _without_specials(serialised: str) -> str:
    """Return the tokenizer without its added tokens, so that no text is taken for one."""
    data = json.loads(serialised)
    data["added_tokens"] = []
    data["post_processor"] = None
    return json.dumps(data)


def _chat_settings(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Return the chat template and the special tokens' spellings that it may use."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return None, {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CounterfoilError(Code.MALFORMED, f"{path} is not JSON") from error
    if not isinstance(data, dict):
        raise CounterfoilError(Code.MALFORMED, f"{path} is not a JSON object")
    template = data.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise CounterfoilError(Code.UNSUPPORTED, f"{path}: only one chat template is supported")
    names = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = data.get(name)
        spelling = value.get("content") if isinstance(value, dict) else value
        if isinstance(spelling, str):
            names[name] = spelling
    return template, names


def _compile(template: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=["jinja2.ext.loopcontrols"],
    )  # the output is no HTML
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise CounterfoilError(Code.MALFORMED, "the chat template is not valid Jinja") from error
