"""Tokenizers for the tests of text: the tiny byte-level one, and the one that is shipped."""

from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from shared.text.tokenizer import Tokenizer
from tests.shared.model import tiny

SHIPPED = Path(__file__).parents[3] / "shared/model/checkpoints/counterfoil-mini"
NAMES = ("tiny", "shipped")


@cache
def backend(name: str) -> Backend:
    """Return the library's own tokenizer, which reads special tokens' spellings as special tokens."""
    if name == "tiny":
        return Backend.from_str(tiny.tokenizer_json())
    return Backend.from_file(str(SHIPPED / "tokenizer.json"))


@cache
def tokenizer(name: str) -> Tokenizer:
    if name == "tiny":
        return Tokenizer(backend(name), tiny.TEMPLATE, (tiny.END,))
    return Tokenizer.from_folder(SHIPPED, (special(name, "<|end|>"),))


def special(name: str, spelling: str) -> int:
    token = backend(name).token_to_id(spelling)
    assert token is not None
    return int(token)


def specials(name: str) -> dict[int, str]:
    added = backend(name).get_added_tokens_decoder()
    return {token: entry.content for token, entry in added.items() if entry.special}


def byte_tokens(name: str, data: bytes) -> list[int]:
    """Return one token for every byte: the least settled way to say something."""
    alphabet = _alphabet()
    tokens = [backend(name).token_to_id(alphabet[byte]) for byte in data]
    assert None not in tokens
    return [int(token) for token in tokens if token is not None]


@cache
def _alphabet() -> tuple[str, ...]:
    """GPT-2's spelling of bytes: printable ones as they are, the others from U+0100 upwards in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


SAMPLES = (
    "",
    " ",
    "\x00\t\r\n  \n",
    "the theatre in the thin inn",
    "Ünïcödé, naïve façade — “quoted” … ½ €",
    "Привет, мир! שלום עולם مرحبا بالعالم",
    "你好，世界。こんにちは 안녕하세요",
    "👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 ❤️ 🏴󠁧󠁢󠁷󠁬󠁳󠁿",
    "e\u0301 vs \u00e9, ﬁ vs fi, \u200b\u200d\ufeff\u2028",
    "\ue0000\ue001 \ue0001\ue001",
    "\ufffd\ufffd\ufffd\ufffd x \ufffd",
    "\U0010ffff\U00010000\ud7ff\ue000",
)
"""White space, mixed scripts, joined emoji, unnormalised forms, our own placeholders, real marks of replacement."""

TEXT = st.one_of(
    st.sampled_from(SAMPLES),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text("👍🏽👩\u200d🇩é漢 \n<|end>", max_size=20),
)
