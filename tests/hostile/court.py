"""Judges hostile cases one after the other under limits, and says what no judge may do.

    python -m tests.hostile.court --cases 100000 --seed 1 [--model FOLDER] [--json]

Every case gets a judgement, or is refused with an error of the catalogue, within the limits of time and memory; and a PASS is
what an independent look at the case gives, too.
"""

import argparse
import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import track

from audit_layer.replay.case import Case
from audit_layer.replay.judge import judge
from shared.envelope.delivered import receipt_context
from shared.envelope.sealing import open_with_secret
from shared.envelope.stream import FrameOpener
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.receipts import Finish, Receipt
from shared.statements.verdicts import Reason
from tests.audit_layer.replay.inference import PROFILE, FakeArithmetic
from tests.hostile.forge import Forger, H, Node
from tests.hostile.mutation import Chooser

SECONDS = 10
"""For one case."""
MEMORY = 2**30
"""Beyond what the process has at its start (bytes of address space)."""


class Seeded:
    """Decisions from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """Return an integer with low <= value <= high."""
        return self._random.randint(low, high)


class BoundedArithmetic(FakeArithmetic):
    """The double with a vocabulary of 256 tokens and a context of 4,096, as a model has bounds."""

    def tokenise(self, body):
        """Refuse a prefix that no model can have said."""
        self.check(body.prefix, ())
        return super().tokenise(body)

    def check(self, prompt, output):
        """Refuse what no sequence of a model can be, as the real one does."""
        if any(token > 255 for token in (*prompt, *output)) or len(prompt) + len(output) > 4096:
            raise CounterfoilError(Code.INVALID_ARGUMENT, "a token is outside the vocabulary")

    def replay(self, prompt, output, settings, seed, choice, delivered=0, cuts=()):
        """Refuse likewise."""
        self.check(prompt, output)
        return super().replay(prompt, output, settings, seed, choice, delivered, cuts)

    def stops_at(self, output, settings, prefix=()):
        """Return where the double's end token is."""
        return super().stops_at(tuple(output), settings, prefix)


def doubled_node() -> Node:
    """Return a node over the double."""
    return Node(BoundedArithmetic(), PROFILE, H)


def wrongly_passed(case: Case, node: Node) -> str | None:
    """Return why a case must not pass, by a look at it that shares nothing with the judge's steps; None if it may."""
    receipt = read_as(Receipt, case.receipt)
    opened = open_with_secret(case.envelope, case.secret)
    opener = FrameOpener(opened.keys, receipt_context(receipt), opened.shape)
    frames = [opener.open(frame) for frame in case.frames]
    final = opener.open_final(case.final_record)
    prompt = node.arithmetic.tokenise(opened.body)
    seed = opened.body.seed or opened.keys.sampling_seed
    tokens = tuple(token for frame in frames for token in frame.tokens)
    body = opened.body
    honest = node.arithmetic.generate(prompt, len(tokens), seed, len(body.prefix))
    said = "".join(
        node.arithmetic.frame_texts([frame.tokens for frame in frames], body.settings, body.prefix)
    )
    most, finish = body.settings.max_tokens, receipt.finish
    cut = finish is Finish.CANCELLED and receipt.cancel is not None
    problems = {
        "its tokens are not the honest ones": tokens != honest or tuple(final.tokens) != honest,
        "its text is another": not "".join(f.text for f in frames) == final.text == said,
        "it bills other tokens": (receipt.usage.input, receipt.usage.output)
        != (len(prompt), len(tokens)),
        "its final record has another usage": final.usage != receipt.usage,
        "it is another model's": receipt.model_root != opened.header.model_root,
        "it ends for no reason": not (
            (finish is Finish.LENGTH and len(tokens) == most)
            or (cut and len(tokens) < most)
            or (finish is Finish.FAILED and len(tokens) <= most)  # which is never paid
        ),
        "its profile is another": receipt.numeric_profile != node.profile,
        "its final record has another receipt": final.receipt != case.receipt,
        "it claims the impossible": (receipt.usage.compute_ms or 0)
        > receipt.ended - receipt.started + 1000,
    }
    return next((problem for problem, found in problems.items() if found), None)


@dataclass
class Tally:
    """What came of the cases."""

    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return it for --json."""
        return {
            "cases": sum(self.reasons.values()),
            "reasons": dict(self.reasons.most_common()),
            "problems": self.problems,
            "slowest_s": round(self.slowest_s, 3),
        }


def try_case(forger: Forger, chooser: Chooser, tally: Tally, name: str) -> None:
    """Forge and judge one case, and count what came of it."""
    case, liars = forger.lying(chooser)
    began = time.monotonic()
    try:
        reason = judge(case, forger.node.arithmetic).reason
        if reason is Reason.EXACT and (wrong := wrongly_passed(case, forger.node)) is not None:
            tally.problems.append(f"{name} ({', '.join(liars)}) passes although {wrong}")
        tally.reasons[reason] += 1
    except CounterfoilError as error:
        tally.reasons[f"refused: {error.code.name}"] += 1
    except Exception as error:  # noqa: BLE001  # anything else is what this looks for
        tally.problems.append(f"{name} ({', '.join(liars)}): {type(error).__name__}: {error}"[:300])
        tally.reasons["crashed"] += 1
    tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)


def limit() -> None:
    """Bound this process: address space from here on, and seconds for each case (see `main`)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"it took more than {SECONDS} s")


def main() -> int:
    """Try cases; exit code 1 if there is a problem."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="judge with this checkpoint instead of a double")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.model is None:
        node = doubled_node()
    else:
        from tests.hostile.tiny_node import tiny_node  # the double needs no torch

        node = tiny_node(options.model)
    forger, tally = Forger(node), Tally()
    assert judge(forger.honest(), node.arithmetic).reason is Reason.EXACT
    limit()
    signal.signal(signal.SIGALRM, _too_long)
    console = Console(stderr=True, quiet=options.json)
    numbers = range(options.seed * 10**9, options.seed * 10**9 + options.cases)
    for number in track(numbers, "hostile cases", console=console, disable=options.json):
        signal.alarm(SECONDS)
        try_case(forger, Seeded(number), tally, f"case {number}")
        signal.alarm(0)
    print(json.dumps(tally.as_json(), indent=1))  # its output
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
