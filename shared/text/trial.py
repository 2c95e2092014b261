"""A trial of a model folder's tokenizer and chat template, in a process with resource limits.
`python -m shared.text.trial FOLDER ROWS STOP…` loads them, makes them process texts and conversations of many kinds, and writes
the result to standard output: nothing, or a refusal as JSON. Limits apply from its first line on, as does the caller's timeout.
"""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.request import MAX_MESSAGES, Message
from shared.text.library import told_as
from shared.text.template import TemplateRefusesError
from shared.text.tokenizer import Tokenizer

MEMORY: Final = 4 << 30
"""Bytes of address space; several times what the largest of today's tokenizers need."""
CPU_S: Final = 60
LONG: Final = 20_000
PIECES: Final = (
    "a", " ", "\n", "1", "!", "ab ", "é漢😀", " \n", "a1", "'s", "A", "\u0301", "<|", "\\", "\t\r\n", "(", "aB",
)  # fmt: skip
TEXTS: Final = (
    *(piece * (LONG // len(piece)) for piece in PIECES),
    *(piece * (LONG // len(piece)) + "!" for piece in ("a", " ", "1", "\n")),
    "".join(map(chr, range(0x800))),
)
"""Inputs on which backtracking patterns explode: long runs of one kind, with and without an end of another."""
CONTENTS: Final = (
    "Where is the lamp?",
    "",
    "  two words \n",
    "a </think> b",
    '{"a": [1, "\\n"]}',
    "{{ x }} {% y %}",
)


def try_out(tokenizer: Tokenizer, rows: int) -> None:
    """Raise an error if this must not be served; `rows` is the number of tokens in the model's embedding."""
    if tokenizer.rows > rows:
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"the tokenizer has a token {tokenizer.rows - 1}; the embedding has {rows} rows",
            remedy="Use the tokenizer with which the checkpoint was saved.",
        )
    for text in TEXTS:
        ids = tokenizer.encode_prompt(text)
        if not all(token < rows for token in ids):
            raise CounterfoilError(
                Code.UNSUPPORTED,
                "the tokenizer puts a token around a text that has no row in the embedding",
            )
        tokenizer.decode(ids)
    for first in range(0, rows, 1024):
        tokenizer.decode(range(first, min(rows, first + 1024)))
    if tokenizer.has_template:
        _converse(tokenizer)


def _converse(tokenizer: Tokenizer) -> None:
    """Try the template; it may refuse some conversations, but not all, and must do nothing that is not permitted."""
    taken = 0
    for messages in _conversations():
        try:
            tokenizer.encode_chat(messages)
        except TemplateRefusesError:
            continue
        taken += 1
    if not taken:
        raise CounterfoilError(Code.UNSUPPORTED, "the chat template accepts no conversation")


def _conversations() -> Iterator[list[Message]]:
    orders = (
        ("user",),
        ("system", "user"),
        ("user", "assistant", "user"),
        ("system", "user", "assistant", "user", "assistant", "user"),
        ("user", "assistant"),
        ("system",),
        ("user", "user"),
    )
    for order in orders:
        for content in (*CONTENTS, "a" * LONG):
            yield [Message(role, content) for role in order]
        yield [Message(role, CONTENTS[at % 2 * -1]) for at, role in enumerate(order)]
    turns = ("user", "assistant")
    yield [Message(turns[at % 2], CONTENTS[0]) for at in range(MAX_MESSAGES - 1)]


def _limit(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    least = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (least, least))


def main(arguments: list[str]) -> None:
    """Limit this process, try the folder out, and write the result."""
    _limit(resource.RLIMIT_AS, MEMORY)
    _limit(resource.RLIMIT_CPU, CPU_S)
    _limit(resource.RLIMIT_CORE, 0)
    folder, rows, *stops = arguments
    try:
        with told_as(Code.UNSUPPORTED, "the tokenizer or the chat template fails on a text"):
            try_out(Tokenizer.from_folder(Path(folder), list(map(int, stops))), int(rows))
    except CounterfoilError as error:
        refusal = {"code": error.code.name, "detail": error.detail, "remedy": error.remedy}
        sys.stdout.write(json.dumps(refusal))


if __name__ == "__main__":
    main(sys.argv[1:])
