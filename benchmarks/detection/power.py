"""Every adversary against this project's judge and the published schemes, on the same answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from benchmarks.detection.reference import NODE, SCHEMES, VERIFIERS, Verifier, scores, sent
from benchmarks.detection.requests import requests
from benchmarks.detection.statistics import audits_until, interval, threshold, upper
from benchmarks.detection.traces import Recorder
from shared.statements.verdicts import Outcome, Reason
from tests.adversaries.adversary import Adversary
from tests.adversaries.catalogue import ADVERSARIES
from tests.adversaries.other_model import write_other_model
from tests.adversaries.told import told
from tests.adversaries.trial import MODEL, Ask, Trial

OURS: Final = "counterfoil"
RATE: Final = 0.005
"""Of false positives per verdict, at which the schemes are compared: a verdict is about `pool` requests together."""
AT_ONCE: Final = 48
"""Requests that one node answers before it is started anew."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    calibration: int
    """Honest requests that set thresholds."""
    held_out: int
    """Honest requests that count false alarms."""
    cheating: int
    """Requests to each adversary."""
    length: int
    """The most tokens of an answer."""
    pools: tuple[int, ...]
    """How many requests a verdict of the schemes may take together; a threshold needs 199 such verdicts to be calibrated."""
    rate: float = RATE


FULL: Final = Size(1600, 1600, 100, 48, (1, 8))
QUICK: Final = Size(6, 4, 4, 10, (1, 2), rate=0.25)


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer: whether it is another one than the honest node's, our verdict, and the schemes' scores."""

    differs: bool
    reason: Reason
    tokens: int
    scores: Mapping[tuple[str, str], float]
    """By scheme and verifier."""
    matches: Mapping[str, int]
    """How many of the tokens each verifier would have chosen."""


class Lab:
    """A node, a judge, and verifiers on other terms, over one model."""

    def __init__(self, folder: Path) -> None:
        other = write_other_model(folder / "other", MODEL)
        self._trial = Trial(folder, arithmetic=NODE, others=[other])
        self._verifiers = {name: Verifier(name) for name in VERIFIERS}
        self._recorder = Recorder()
        self._honest: dict[bytes, tuple[Any, ...]] = {}
        """What an honest node says, by the request's seed."""

    def scored(self, asks: Sequence[Ask], adversary: Adversary | None) -> Iterator[Scored]:
        """Have requests answered, once honestly too for comparison, and look at every answer in every way."""
        for first in range(0, len(asks), AT_ONCE):
            some = asks[first : first + AT_ONCE]
            honest = self._honestly(some) if adversary else []
            with self._recorder.watching():
                answers = self._trial.run(some, adversary)
            for place, (ask, tried) in enumerate(zip(some, answers, strict=True)):
                states = self._recorder.states(tried)
                given = sent(states) if states is not None and len(states.output) else None
                references = {
                    name: verifier.reference(tried, ask.body)
                    for name, verifier in self._verifiers.items()
                }
                yield Scored(
                    bool(adversary) and told(tried) != honest[place],
                    self._trial.judge(tried).reason,
                    len(tried.output_ids),
                    {
                        (scheme, name): score
                        for name, one in references.items()
                        for scheme, score in scores(given, one).items()
                    },
                    {name: one.matches if one else 0 for name, one in references.items()},
                )

    def _honestly(self, asks: Sequence[Ask]) -> list[tuple[Any, ...]]:
        missing = [ask for ask in asks if _seed(ask) not in self._honest]
        for ask, tried in zip(missing, self._trial.run(missing), strict=True):
            self._honest[_seed(ask)] = told(tried)
        return [self._honest[_seed(ask)] for ask in asks]


def _seed(ask: Ask) -> bytes:
    assert ask.body.seed is not None
    return ask.body.seed


def pooled(answers: Sequence[Scored], method: tuple[str, str], pool: int) -> list[float]:
    """Return the scores of every `pool` answers together, weighted by their tokens; what is left over is left out."""
    found = []
    for first in range(0, len(answers) - pool + 1, pool):
        some = answers[first : first + pool]
        weights = [max(1, one.tokens) for one in some]
        total = sum(w * one.scores[method] for w, one in zip(weights, some, strict=True))
        found.append(total / sum(weights))
    return found


def share(hits: int, tries: int) -> dict[str, Any]:
    """Return a count with its exact 95 % interval."""
    if not tries:
        return {"hits": 0, "of": 0}
    low, high = interval(hits, tries)
    return {"hits": hits, "of": tries, "low": round(low, 5), "high": round(high, 5)}


def effort(hits: int, tries: int, pool: int, tokens: float) -> dict[str, Any]:
    """Return how often verdicts over `pool` answers of `tokens` tokens each find a cheat, and what it takes to be 95 % sure.

    `audits` and `tokens` are for the measured share, `audits_at_most` for the lower end of its interval. None: never.
    """
    found = share(hits, tries)
    audits = pool * audits_until(hits / tries, 0.95) if hits else None
    low = found.get("low", 0)
    return {
        **found,
        "pool": pool,
        "audits": audits,
        "audits_at_most": pool * audits_until(low, 0.95) if low else None,
        "tokens": None if audits is None else round(audits * tokens),
    }


class Thresholds:
    """For every scheme, verifier and pool, the score that honest requests exceed at the stated rate."""

    def __init__(self, honest: Sequence[Scored], size: Size) -> None:
        self.size = size
        self.limits = {
            (scheme, name, pool): threshold(pooled(honest, (scheme, name), pool), size.rate)
            for scheme in SCHEMES
            for name in VERIFIERS
            for pool in size.pools
        }

    def hits(self, answers: Sequence[Scored], scheme: str, name: str, pool: int) -> tuple[int, int]:
        """Return how many of how many verdicts are positive."""
        found = pooled(answers, (scheme, name), pool)
        return sum(score > self.limits[scheme, name, pool] for score in found), len(found)


def figures(size: Size, folder: Path, names: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Return thresholds, false alarms among honest requests that set none, and one row for each adversary."""
    lab = Lab(folder)

    def answered(seed: int, count: int, name: str | None = None) -> list[Scored]:
        asks = list(islice(requests(seed, size.length), count))
        found = []
        for one in lab.scored(asks, ADVERSARIES[name] if name else None):
            found.append(one)
            if len(found) % AT_ONCE == 0 or len(found) == count:
                progress(f"{name or 'honest'}: {len(found)} of {count}")
        return found

    limits = Thresholds(answered(1, size.calibration), size)
    held_out = answered(2, size.held_out)
    rows = [row(name, answered(3, size.cheating, name), limits) for name in names]
    return {
        "node": NODE,
        "rate": size.rate,
        "size": {"calibration": size.calibration, "held_out": size.held_out},
        "thresholds": [
            {"scheme": scheme, "verifier": name, "pool": pool, "score": limit}
            for (scheme, name, pool), limit in limits.limits.items()
        ],
        "honest": honest(held_out, limits),
        "adversaries": rows,
    }


def honest(answers: Sequence[Scored], limits: Thresholds) -> dict[str, Any]:
    """Return the false alarms among honest answers, and how often the verifiers' own tokens are the node's."""
    alarms = sum(one.reason.outcome is not Outcome.PASS for one in answers)
    return {
        "requests": len(answers),
        "tokens": sum(one.tokens for one in answers),
        OURS: share(alarms, len(answers)) | {"at_most": upper(alarms, len(answers))},
        "schemes": [
            {"scheme": scheme, "verifier": name, "pool": pool}
            | share(*limits.hits(answers, scheme, name, pool))
            for scheme, name, pool in limits.limits
        ],
        "published": published(answers),
        "matches": {
            name: share(
                sum(one.matches[name] for one in answers), sum(one.tokens for one in answers)
            )
            for name in VERIFIERS
        },
    }


def published(answers: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return how many answers TOPLOC rejects by the thresholds of its paper."""
    return [
        {"scheme": "toploc", "verifier": name}
        | share(sum(one.scores["toploc", name] > 1 for one in answers), len(answers))
        for name in VERIFIERS
    ]


def row(name: str, answers: Sequence[Scored], limits: Thresholds) -> dict[str, Any]:
    """Return how an adversary is found in the answers that are not the honest node's: where it does not cheat, nobody can."""
    different = [one for one in answers if one.differs]
    tokens = sum(one.tokens for one in different) / max(1, len(different))
    caught = sum(one.reason.outcome is not Outcome.PASS for one in different)
    others = [one for one in answers if not one.differs]
    return {
        "name": name,
        "requests": len(answers),
        "different": len(different),
        "tokens_each": round(tokens, 1),
        "reasons": sorted({one.reason.value for one in different}),
        "false_alarms": sum(one.reason.outcome is not Outcome.PASS for one in others),
        OURS: effort(caught, len(different), 1, tokens),
        "schemes": [
            {"scheme": scheme, "verifier": verifier}
            | effort(*limits.hits(different, scheme, verifier, pool), pool, tokens)
            for scheme, verifier, pool in limits.limits
        ],
        "published": published(different),
    }
