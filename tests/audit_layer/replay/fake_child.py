"""A double of the replay process, without torch: `python fake_child.py ANSWER [MARK]`.

ANSWER `pass` judges every case as PASS. `hang` writes MARK once it has a case, and then answers nothing until its
input ends; if MARK already exists, it judges as `pass` does: only the first case hangs. Every other ANSWER is hex
that is written as it is, whatever the case.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from audit_layer.replay.framing import read_message, write_message
from shared.codec import cbor
from shared.statements.verdicts import Reason
from shared.verification.judgement import Judgement

PASS = cbor.encode({"judgement": Judgement(Reason.EXACT, {"blocks": 1}).to_bytes()})


def command(answer: str, mark: Path | None = None) -> list[str]:
    """Return the command that starts this double."""
    return [sys.executable, __file__, answer, *([] if mark is None else [str(mark)])]


def main(arguments: Sequence[str]) -> None:
    answer, *rest = arguments
    while read_message(sys.stdin.buffer) is not None:
        if answer == "hang" and not (mark := Path(rest[0])).exists():
            mark.touch()
            sys.stdin.buffer.read()
            return
        if answer in {"hang", "pass"}:
            write_message(sys.stdout.buffer, PASS)
        else:
            sys.stdout.buffer.write(bytes.fromhex(answer))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
