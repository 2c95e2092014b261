"""A double of the replay process, without torch: `python fake_child.py ANSWER [MARK]`.

ANSWER `pass` judges every case as PASS. `hang` writes MARK once it has a case, and then answers nothing until its
input ends; if MARK already exists, it judges as `pass` does: only the first case hangs. Every other ANSWER is hex
that is written as it is, whatever the case. `longest` judges what may be replayed at all as `pass` does, and as many
tokens as it then may, and the rest as what would take too long.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from audit_layer.replay.framing import read_case, write_message
from shared.codec import cbor
from shared.statements.verdicts import Reason
from shared.verification.judgement import Judgement

TOKENS = 1000
PASS = cbor.encode({"judgement": Judgement(Reason.EXACT, {"blocks": 1}).to_bytes()})


def command(answer: str, mark: Path | None = None) -> list[str]:
    """Return the command that starts this double."""
    return [sys.executable, __file__, answer, *([] if mark is None else [str(mark)])]


def _in_time(longest: int | None) -> bytes:
    """Judge a case of `TOKENS` tokens by how many may be replayed."""
    in_time = longest is None or longest >= TOKENS
    reason = Reason.EXACT if in_time else Reason.UNREPLAYABLE
    facts = {"prompt_tokens": 0, "output_tokens": TOKENS, "longest": longest or 0}
    if in_time:
        facts["blocks"] = 1
    return cbor.encode({"judgement": Judgement(reason, facts).to_bytes()})


def main(arguments: Sequence[str]) -> None:
    answer, *rest = arguments
    while (arriving := read_case(sys.stdin.buffer)) is not None:
        arriving.drain()
        if answer == "hang" and not (mark := Path(rest[0])).exists():
            mark.touch()
            sys.stdin.buffer.read()
            return
        if answer == "longest":
            write_message(sys.stdout.buffer, _in_time(arriving.longest))
            sys.stdout.buffer.flush()
        elif answer in {"hang", "pass"}:
            write_message(sys.stdout.buffer, PASS)
            sys.stdout.buffer.flush()
        else:
            sys.stdout.buffer.write(bytes.fromhex(answer))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
