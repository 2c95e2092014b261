"""Opening a checkpoint's tokenizer: used for both serving and replay, so both refuse the same folders."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import read_file
from shared.text.tokenizer import FILES, Tokenizer

WALL_S: Final = 120.0


def open_tokenizer(folder: Path, *, rows: int, stops: Sequence[int]) -> Tokenizer:
    """Load a folder's tokenizer and template once a process with resource limits has tried them out (`trial`).
    `rows` is the embedding's number of tokens, `stops` are the stop tokens. UNSUPPORTED or MALFORMED say what is wrong with
    the folder. Folders with the same files are tried once per process.
    """
    content = sha256()
    for name in FILES:
        content.update(sha256(read_file(folder / name) or b"").digest())
    _try(folder, content.digest(), rows, tuple(stops))
    return Tokenizer.from_folder(folder, stops)


@cache
def _try(folder: Path, content: bytes, rows: int, stops: tuple[int, ...]) -> None:  # noqa: ARG001  # for the cache
    command = [sys.executable, "-m", "shared.text.trial", str(folder.resolve())]
    try:
        done = subprocess.run(
            [*command, *map(str, (rows, *stops))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"},
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _beyond(folder) from error
    if done.returncode < 0:  # a limit's signal
        raise _beyond(folder)
    if done.returncode > 0:
        raise CounterfoilError(
            Code.INTERNAL,
            f"the process that tried out {folder} ended with code {done.returncode}",
            remedy=f"`python -m shared.text.trial {folder} {rows}` shows why.",
        )
    if done.stdout:
        found = json.loads(done.stdout)
        code = Code[found["code"]]
        raise CounterfoilError(
            Code.UNSUPPORTED if code is Code.INVALID_ARGUMENT else code,
            f"{folder}: {found['detail']}",
            remedy=found["remedy"],
        )


def _beyond(folder: Path) -> CounterfoilError:
    return CounterfoilError(
        Code.UNSUPPORTED,
        f"{folder}: the tokenizer or the chat template takes too much time or memory",
        remedy="Such a folder can stop a node with one request. Get the files from where the model was published.",
    )
