"""Tokens that tokenizer_config.json declares in addition to tokenizer.json, and that transformers adds to the tokenizer.
Here tokenizer.json alone defines the tokens. If the other file would result in a different tokenizer, the folder is
refused.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken

from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import read_json_if_there

NAMES: Final = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
"""Special tokens that every tokenizer may have."""
ENDING: Final = "_token"
LISTS: Final = ("additional_special_tokens", "extra_special_tokens")
FLAGS: Final = ("lstrip", "rstrip", "single_word", "normalized")
"""Flags that change a text's tokens. Whether a token is special changes only where it may come from, and a special token
that is `normalized` is accepted only if that changes nothing (`control`)."""


def check_declared(folder: Path, added: Mapping[int, AddedToken], template: str | None) -> None:
    """Raise UNSUPPORTED, by name, for a declared token that tokenizer.json lacks, or has under another number or with other flags.
    A special token with a name, such as `pad_token`, counts only if the template uses it: no message can.
    """
    path = folder / "tokenizer_config.json"
    data = read_json_if_there(path)
    try:
        found = _wrong(data, added, template or "")
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CounterfoilError(Code.MALFORMED, f"{path}: its added tokens are not valid") from error
    if found is not None:
        spelling, why = found
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"{path} declares the token {json.dumps(spelling[:80])}, which tokenizer.json {why}",
            remedy="Save the tokenizer once with transformers (save_pretrained), so that both files agree.",
        )


def named(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the tokens that a template may name, from tokenizer_config.json: the fields named `…_token` that hold a token, and
    the mapping `extra_special_tokens`.
    """
    extra = data.get("extra_special_tokens")
    fields = {name: value for name, value in data.items() if name.endswith(ENDING)}
    fields |= extra if isinstance(extra, dict) else {}
    found = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return {name: spelling for name, spelling in found.items() if isinstance(spelling, str)}


def _wrong(
    data: Mapping[str, Any], added: Mapping[int, AddedToken], template: str
) -> tuple[str, str] | None:
    known = {entry.content: (number, entry) for number, entry in added.items()}
    for number, entry in _decoder(data):
        if entry.content not in known:
            return entry.content, "does not have as an added token"
        at, there = known[entry.content]
        if at != number:
            return entry.content, f"has under number {at}"
        both = entry.special and there.special
        for flag in FLAGS[:-1] if both else FLAGS:
            if getattr(entry, flag) != getattr(there, flag):
                return entry.content, f"has with another {flag}"
    for name, spelling in _special(data):
        used = name is None or name in template or spelling in template
        if used and spelling not in known:
            return spelling, "does not have as an added token"
    return None


def _decoder(data: Mapping[str, Any]) -> Iterator[tuple[int, AddedToken]]:
    for number, fields in (data.get("added_tokens_decoder") or {}).items():
        kept = {name: fields[name] for name in (*FLAGS, "special") if name in fields}
        yield int(number), AddedToken(fields["content"], **kept)


def _special(data: Mapping[str, Any]) -> Iterator[tuple[str | None, str]]:
    """Yield special tokens with their names; those of lists have none."""
    for value in (data[name] for name in NAMES if data.get(name)):
        _spelling(value)
    yield from ((name, spelling) for name, spelling in named(data).items() if spelling)
    for name in LISTS:
        listed = data.get(name) or ()
        spellings = [_spelling(value) for value in _values(listed)]
        if not isinstance(listed, dict):  # otherwise they have names
            yield from ((None, spelling) for spelling in spellings)


def _values(listed: Any) -> Iterable[Any]:
    return listed.values() if isinstance(listed, dict) else listed


def _spelling(value: Any) -> str:
    spelling = value["content"] if isinstance(value, dict) else value
    if not isinstance(spelling, str):
        raise TypeError("a token has a spelling")
    return spelling
