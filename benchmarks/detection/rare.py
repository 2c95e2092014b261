"""A node that cheats on one request in a hundred: how many audits until it is found, by the log's own rule of drawing. Pure."""

import random
from collections.abc import Sequence
from hashlib import sha256
from statistics import median
from typing import Any, Final

from benchmarks.common.figures import percentile
from benchmarks.detection.power import OURS, share
from benchmarks.detection.statistics import audits_until
from shared.selection.draw import drawn_by_rate

ONE_IN: Final = 100
RATE_PPM: Final = 100_000
"""One receipt in ten is drawn."""
LIMITS: Final = (69, 298)
"""Audits within which a cheat that is found for certain is found with 50 % and 95 %."""
CHEAT: Final = "cheap-decode"
"""What it does on that request: the tokens are a cheap model's, and so nearly all that can be saved is saved."""


def audits(seed: int, power: float) -> int:
    """Return how many drawn receipts are audited until the first finding; the node cannot know which will be drawn."""
    draw = random.Random(seed)
    selection = sha256(f"selection {seed}".encode()).digest()
    count = place = 0
    while True:
        entry = sha256(f"receipt {seed} {place}".encode()).digest()
        cheats = draw.randrange(ONE_IN) == 0
        place += 1
        if drawn_by_rate(selection, entry, RATE_PPM):
            count += 1
            if cheats and draw.random() < power:
                return count


def found_after(power: float, seeds: int) -> dict[str, Any]:
    """Return the audits that it took over many seeds, beside the geometric law."""
    taken: Sequence[int] = [audits(seed, power) for seed in range(seeds)]
    effective = power / ONE_IN
    return {
        "power": power,
        "median": median(taken),
        "percentile_95": percentile(taken, 95),
        "law_median": audits_until(effective, 0.5),
        "law_95": audits_until(effective, 0.95),
        "within": [
            {
                "audits": limit,
                **share(sum(one <= limit for one in taken), seeds),
                "law": 1 - (1 - effective) ** limit,
            }
            for limit in LIMITS
        ],
    }


def figures(power: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Return what follows from the measured share of cheats found and of false alarms, request by request; the best verifier's."""
    row = next(one for one in power["adversaries"] if one["name"] == CHEAT)
    single = [each for each in row["schemes"] if each["pool"] == 1]
    alarms = {
        (one["scheme"], one["verifier"]): one["hits"] / one["of"]
        for one in power["honest"]["schemes"]
        if one["pool"] == 1
    }
    best: dict[str, dict[str, Any]] = {}
    for each in sorted(single, key=lambda one: one["hits"]):
        best[each["scheme"]] = each
    methods = [{"method": OURS, "alarms": 0.0, **_found(row[OURS], seeds)}]
    for name, each in best.items():
        rate = alarms[name, each["verifier"]]
        methods.append(
            {"method": name, "verifier": each["verifier"], "alarms": rate, **_found(each, seeds)}
        )
    return {"one_in": ONE_IN, "rate_ppm": RATE_PPM, "seeds": seeds, "methods": methods}


def _found(counted: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Return the law for a measured share; nothing to simulate where nothing was found."""
    hits, of = counted["hits"], counted["of"]
    return {"hits": hits, "of": of} | (found_after(hits / of, seeds) if hits else {})
