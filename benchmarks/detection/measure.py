"""Every adversary against our judge and three published schemes, on the same answers."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.detection.baselines import activation_difr, toploc
from benchmarks.detection.statistics import audits_until, interval, upper
from benchmarks.detection.traces import Recorder, Reference, States, Verifier, requests
from shared.statements.verdicts import Outcome, Reason
from tests.adversaries.adversary import Adversary
from tests.adversaries.catalogue import ADVERSARIES
from tests.adversaries.other_model import write_other_model
from tests.adversaries.trial import MODEL, Ask, Trial, Tried

NODE: Final = "pairs-32"
VERIFIER: Final = "chain-1"
METHODS: Final = ("counterfoil", "toploc", "activation-difr", "token-difr")
FPR: Final = 0.005
"""False positives per request at which the published schemes are compared."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How many requests, and how many tokens each."""

    honest: int
    """For each of calibration and held-out test."""
    cheating: int
    """For each adversary."""
    length: int


FULL: Final = Size(honest=400, cheating=40, length=48)
QUICK: Final = Size(honest=6, cheating=5, length=12)


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer: whether it is another one than the honest node's, our verdict, and the schemes' scores."""

    differs: bool
    reason: Reason
    tokens: int
    scores: dict[str, float]
    """By method; infinite where what the scheme needs is not there, 0 where it has nothing to look at."""


@dataclass
class Lab:
    """A node, a judge on equal terms and a verifier on other terms, over one model."""

    folder: Path
    size: Size
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        other = write_other_model(self.folder / "other", MODEL)
        self.trial = Trial(self.folder, arithmetic=NODE, others=[other])
        self.verifier = Verifier(VERIFIER)
        self._honest: dict[int, tuple[Any, ...]] = {}

    def scored(self, asks: Sequence[Ask], adversary: Adversary | None) -> list[Scored]:
        """Have requests answered, and look at every answer in four ways."""
        with self.recorder.watching():
            answers = self.trial.run(asks, adversary)
        return [self._scored(ask, tried) for ask, tried in zip(asks, answers, strict=True)]

    def _scored(self, ask: Ask, tried: Tried) -> Scored:
        number = id(ask)
        seen = _seen(tried)
        differs = self._honest.setdefault(number, seen) != seen
        reference = self.verifier.reference(tried, ask.body)
        states = self.recorder.states(tried, self.verifier.width)
        return Scored(
            differs,
            self.trial.judge(tried).reason,
            len(tried.output_ids),
            scores(states, reference),
        )


def scores(states: States | None, reference: Reference | None) -> dict[str, float]:
    """Return the published schemes' scores of one answer."""
    if reference is None:  # no tokens: nothing for any of them to look at
        return dict.fromkeys(METHODS[1:], 0.0)
    found = {"token-difr": reference.margins.score}
    if states is None or states.shape != reference.states.shape:
        return {**found, "toploc": float("inf"), "activation-difr": float("inf")}
    sketch = activation_difr.sketch(states)
    return {
        **found,
        "toploc": max(_toploc(states, reference.states)),
        "activation-difr": activation_difr.score(sketch, reference.states),
    }


def _toploc(states: States, own: States) -> Iterator[float]:
    """Yield the score of each chunk of 32 tokens."""
    for first in range(0, len(states), toploc.CHUNK):
        part = slice(first, first + toploc.CHUNK)
        yield toploc.compare(toploc.prove(states[part]), own[part]).score


def _seen(tried: Tried) -> tuple[Any, ...]:
    """Return everything that an answer and its receipt say, except what may differ between two honest runs."""
    claimed, final = tried.claimed, tried.final
    usage = claimed.usage
    return (
        tried.output_ids,
        tried.text,
        tried.logprobs,
        tried.evidence,
        claimed.finish,
        claimed.model_root,
        claimed.numeric_profile,
        (usage.input, usage.output, usage.energy_mj),
        bool(tried.undelivered),
        final is not None and final.receipt == tried.receipt,
        final and (final.tokens, final.usage.output, final.finish),
        claimed.started + 1_000 < tried.ordered.created,
        usage.compute_ms is not None and usage.compute_ms > tried.took_ms + 1_000,
    )


def thresholds(calibration: Sequence[Scored]) -> dict[str, float]:
    """Return for each scheme the score that at most `FPR` of honest requests exceed, conservatively for few of them."""
    allowed = int(FPR * (len(calibration) + 1))
    found = {}
    for method in METHODS[1:]:
        ordered = sorted((one.scores[method] for one in calibration), reverse=True)
        found[method] = ordered[allowed]
    return found


def caught(one: Scored, method: str, limits: dict[str, float]) -> bool:
    """Return whether a method says that an answer is not the honest one."""
    if method == METHODS[0]:
        return one.reason.outcome is not Outcome.PASS
    return one.scores[method] > limits[method]


def figures(size: Size, progress: Progress) -> dict[str, Any]:
    """Return the table: calibration, held-out false alarms, and every adversary."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), size)
        calibration = lab.scored(requests(size.honest, 1, length=size.length), None)
        progress("calibrated")
        held_out = lab.scored(requests(size.honest, 2, length=size.length), None)
        progress("held-out honest requests scored")
        limits = thresholds(calibration)
        asks = requests(size.cheating, 3, length=size.length)
        lab.scored(asks, None)  # what the honest node answers
        rows = []
        for name, adversary in ADVERSARIES.items():
            rows.append(_row(name, adversary, lab.scored(asks, adversary), limits))
            progress(name)
    return {
        "node": NODE,
        "verifier": VERIFIER,
        "false_positive_rate": FPR,
        "thresholds": limits,
        "honest": {
            "requests": len(held_out),
            "tokens": sum(one.tokens for one in held_out),
            "alarms": {
                method: sum(caught(one, method, limits) for one in held_out) for method in METHODS
            },
            "upper_95": {
                method: upper(sum(caught(one, method, limits) for one in held_out), len(held_out))
                for method in METHODS
            },
        },
        "adversaries": rows,
    }


def _row(
    name: str, adversary: Adversary, answers: Sequence[Scored], limits: dict[str, float]
) -> dict[str, Any]:
    different = [one for one in answers if one.differs]
    row: dict[str, Any] = {
        "name": name,
        "summary": adversary.summary,
        "requests": len(answers),
        "different": len(different),
        "false_alarms": sum(
            one.reason.outcome is not Outcome.PASS for one in answers if not one.differs
        ),
        "reasons": sorted({one.reason.value for one in different}),
        "methods": {},
    }
    for method in METHODS:
        hits = [caught(one, method, limits) for one in different]
        row["methods"][method] = _power(hits, different)
    return row


def _power(hits: Sequence[bool], different: Sequence[Scored]) -> dict[str, Any]:
    """Return how often a method finds a request that differs, and after how many requests and tokens it does."""
    if not hits:
        return {"caught": 0, "of": 0}
    low, high = interval(sum(hits), len(hits))
    first = hits.index(True) if any(hits) else None
    return {
        "caught": sum(hits),
        "of": len(hits),
        "interval_95": [round(low, 4), round(high, 4)],
        "first_request": None if first is None else first + 1,
        "first_tokens": None
        if first is None
        else sum(one.tokens for one in different[: first + 1]),
        "audits_for_95_percent": audits_until(low, 0.95) if low > 0 else None,
    }
