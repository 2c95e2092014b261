"""Simulated invoices, and the interval for each."""

import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from audit_layer.costs.interval import CONFIDENCE, Alike, Finding, Interval, overbilling
from benchmarks.common.figures import spread

RATES_PPM: Final = (10_000, 50_000, 200_000)
OVERBILLED: Final = (0.0, 0.01)
"""Shares of receipts that are overbilled whole."""
PRICE: Final = Decimal("0.000002")
"""EUR for a token."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """An invoice with its audits, grouped, and what is true of it."""

    receipts: Sequence[Alike]
    amount: Decimal
    overbilled: Decimal


def drawn(draw: random.Random, size: int, rate_ppm: int, share: float) -> Drawn:
    """Return a random invoice of `size` receipts of which a share is overbilled, after a draw."""
    groups: Counter[tuple[int, bool, bool]] = Counter()
    for _ in range(size):
        tokens = math.ceil(draw.lognormvariate(math.log(500), 1))
        dirty = draw.random() < share
        groups[tokens, dirty, draw.random() < rate_ppm / 1e6] += 1
    receipts = [
        Alike(
            tokens * PRICE,
            rate_ppm,
            Finding.exactly(tokens * PRICE if dirty else Decimal(0)) if audited else None,
            count,
        )
        for (tokens, dirty, audited), count in groups.items()
    ]
    return Drawn(
        receipts,
        sum((tokens * PRICE * count for (tokens, _, _), count in groups.items()), Decimal(0)),
        sum((t * PRICE * count for (t, dirty, _), count in groups.items() if dirty), Decimal(0)),
    )


def figures(sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return limits in percent of the invoice's amount, with their spread over rounds."""
    return {
        "benchmark": "interval",
        "version": 1,
        "confidence": str(CONFIDENCE),
        "rows": list(_rows(sizes, rounds)),
        "one_by_one": _one_by_one(max(sizes)),
    }


def _rows(sizes: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    for size in sizes:
        for rate in RATES_PPM:
            for share in OVERBILLED:
                draw = random.Random(f"{size} {rate} {share}")
                invoices = [drawn(draw, size, rate, share) for _ in range(rounds)]
                yield {
                    "size": size,
                    "rate_ppm": rate,
                    "overbilled": spread(
                        [float(100 * one.overbilled / one.amount) for one in invoices]
                    ),
                    "adaptive": _limits(invoices, adaptive=True),
                    "fixed": _limits(invoices, adaptive=False),
                }


def _limits(invoices: Sequence[Drawn], *, adaptive: bool) -> dict[str, Any]:
    intervals = [overbilling(one.receipts, adaptive=adaptive) for one in invoices]
    pairs = list(zip(intervals, invoices, strict=True))
    return {
        "low": spread([float(100 * found.low / one.amount) for found, one in pairs]),
        "high": spread([float(100 * found.high / one.amount) for found, one in pairs]),
        "covered": sum(_covers(found, one) for found, one in pairs),
        "of": len(pairs),
    }


def _covers(found: Interval, one: Drawn) -> bool:
    return found.low <= one.overbilled <= found.high


def _one_by_one(size: int) -> dict[str, Any]:
    """How long it takes when receipts are not grouped and all amounts differ."""
    draw = random.Random(size)
    receipts = []
    for i in range(size):
        amount = Decimal(draw.randrange(10**6) * size + i).scaleb(-12)
        finding = Finding.exactly(amount if i % 100 == 0 else Decimal(0))
        receipts.append(Alike(amount, 50_000, finding if draw.random() < 0.05 else None))
    taken = {}
    for name, adaptive in (("adaptive", True), ("fixed", False)):
        begun = time.perf_counter()
        overbilling(receipts, adaptive=adaptive)
        taken[name] = round(time.perf_counter() - begun, 2)
    return {"receipts": size, "seconds": taken}
