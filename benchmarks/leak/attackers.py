"""Attackers that name the prompt behind an exchange, and how often they are right. Pure.

An attacker is a kind of features and a classifier. Which one is best is found on exchanges that it did not learn from, and
how often that one is right on others again; so nothing is reported of exchanges that served to choose.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.leak.features import Vector, sizes_of, times_of, totals_of
from benchmarks.leak.relay import Record

Labels = NDArray[np.int64]
Matrix = NDArray[np.float64]
Learn = Callable[[Matrix, Labels], Callable[[Matrix], Labels]]
STEPS: Final = 400
PACE: Final = 0.5
RIDGE: Final = 1e-3
FLOOR: Final = 0.01
"""Of a number's whole deviation, what it counts for at the least."""


def nearest(count: int) -> Learn:
    """Return the classifier that asks the `count` nearest exchanges (sum of absolute differences)."""

    def learn(known: Matrix, labels: Labels) -> Callable[[Matrix], Labels]:
        def name(asked: Matrix) -> Labels:
            chosen = []
            for row in asked:
                order = np.argsort(np.abs(known - row).sum(axis=1), kind="stable")[:count]
                names, votes = np.unique(labels[order], return_counts=True)
                best = names[votes == votes.max()]
                chosen.append(next(one for one in labels[order] if one in best))
            return np.array(chosen, dtype=np.int64)

        return name

    return learn


def centres(known: Matrix, labels: Labels) -> Callable[[Matrix], Labels]:
    """Return the classifier that takes the prompt whose mean is nearest: Bayes' with normal, independent numbers."""
    classes = np.unique(labels)
    means = np.array([known[labels == one].mean(axis=0) for one in classes])
    return lambda asked: classes[
        np.array([((means - row) ** 2).sum(axis=1).argmin() for row in asked])
    ]


def softmax(known: Matrix, labels: Labels) -> Callable[[Matrix], Labels]:
    """Return a multinomial logistic regression, fitted by gradient descent with momentum."""
    classes = np.unique(labels)
    wanted = (labels[:, None] == classes).astype(float)
    rows = np.hstack((known, np.ones((len(known), 1))))
    weights = np.zeros((rows.shape[1], len(classes)))
    moved = np.zeros_like(weights)
    pace = PACE / max(1.0, float(np.mean((rows**2).sum(axis=1))) / 4)
    for _ in range(STEPS):
        slope = rows.T @ (_chances(rows @ weights) - wanted) / len(rows) + RIDGE * weights
        moved = 0.9 * moved - pace * slope
        weights += moved
    return lambda asked: classes[
        np.argmax(np.hstack((asked, np.ones((len(asked), 1)))) @ weights, axis=1)
    ]


def _chances(scores: Matrix) -> Matrix:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def both(records: Sequence[Record]) -> Vector:
    """Return all numbers."""
    return np.concatenate((totals_of(records), sizes_of(records), times_of(records)))


LOOKS: Final[Mapping[str, Callable[[Sequence[Record]], Vector]]] = {
    "totals": totals_of,
    "sizes": sizes_of,
    "times": times_of,
    "both": both,
}
CLASSIFIERS: Final[Mapping[str, Learn]] = {
    "nearest": nearest(1),
    "5 nearest": nearest(5),
    "centres": centres,
    "softmax": softmax,
}


@dataclass(frozen=True, slots=True)
class Found:
    """How often the best attacker is right about exchanges that nobody looked at before."""

    look: str
    classifier: str
    right: int
    tried: int


def attack(exchanges: Sequence[Sequence[Sequence[Record]]]) -> Found:
    """Learn from the first half of each prompt's exchanges, choose on a quarter, count on the rest.

    `exchanges[p][r]` are the records of repetition r of prompt p; all prompts have the same number of them, 4 or more.
    """
    count = len(exchanges[0])
    parts = (range(count // 2), range(count // 2, 3 * count // 4), range(3 * count // 4, count))
    best, found = -1, None
    for look, see in LOOKS.items():
        seen = [[see(records) for records in repetitions] for repetitions in exchanges]
        (known, labels), (shown, choose), (asked, truth) = (_part(seen, part) for part in parts)
        centre, scale = known.mean(axis=0), _within(known, labels)
        known, shown, asked = ((part - centre) / scale for part in (known, shown, asked))
        for name, learn in CLASSIFIERS.items():
            right = int((learn(known, labels)(shown) == choose).sum())
            if right > best:
                again = np.vstack((known, shown)), np.concatenate((labels, choose))
                said = learn(*again)(asked)
                best = right
                found = Found(look, name, int((said == truth).sum()), len(truth))
    assert found is not None
    return found


def _within(rows: Matrix, labels: Labels) -> Vector:
    """Return how much each number varies between exchanges about one prompt: what hardly does tells most."""
    inside = np.mean([rows[labels == one].var(axis=0) for one in np.unique(labels)], axis=0)
    scale = np.asarray(np.sqrt(inside) + FLOOR * rows.std(axis=0))
    scale[scale == 0] = 1.0
    return scale


def _part(seen: Sequence[Sequence[Vector]], part: range) -> tuple[Matrix, Labels]:
    rows = [seen[prompt][place] for prompt in range(len(seen)) for place in part]
    labels = [prompt for prompt in range(len(seen)) for _ in part]
    return np.array(rows), np.array(labels, dtype=np.int64)
