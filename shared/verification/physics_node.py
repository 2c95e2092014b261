"""Whether the receipts of one node are plausible together: each may be possible while all at once are not. Pure.

Work that lies wholly within a stretch of time must have been done in it. Looked at are the busy stretches (receipts that
overlap, and others that overlap these), and windows of several lengths, each half over the next, so that an impossible
minute does not vanish in a plausible day.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from shared.verification.physics import (
    ROUNDING_MS,
    Finding,
    Quantity,
    Report,
    Serving,
    Work,
    loosened,
    most_energy,
    products,
    readings,
    unmeasured,
)

WINDOWS_MS: Final = (10_000, 60_000, 600_000, 3_600_000)


@dataclass(frozen=True, slots=True)
class _Stretch:
    works: tuple[Work, ...]
    busy: int
    """Time in which at least one of them was there, ms."""
    whole: bool
    """Whether no other receipt of the node was there in that time."""

    @property
    def name(self) -> str:
        first, last = min(w.started for w in self.works), max(w.ended for w in self.works)
        return f"{len(self.works):,} receipts from {first} to {last}"

    @property
    def slack(self) -> int:
        """What rounding may add up to, ms."""
        return ROUNDING_MS * (len(self.works) + 1)


def check_node(
    works: Iterable[Work], serving: Serving, within: tuple[int, int] | None = None
) -> Report:
    """Compare the claims of receipts that overlap in time with what the node's hardware can do in that time.

    For each quantity and each kind of stretch, the worst one is reported, with how many there are. That energy is too
    *low* is said only if the receipts are all that the node served in that time: pass all that overlap `within` (ms, its
    end not in it), and stretches that reach beyond it are not held against it; without it, pass all that there are.
    """
    everything = tuple(sorted(works, key=lambda work: (work.started, work.ended)))
    sizes = sum(work.model is None for work in everything)
    unbounded = Counter({"the model's size is not known": sizes} if sizes else {})
    busy = [_whole(one, within) for one in _busy(everything)]
    if cut := sum(not one.whole for one in busy):
        unbounded["the time that was asked for cuts a busy stretch"] += cut
    if serving.device.idle_watts is None and busy:
        unbounded["the device's idle power is not known"] += len(busy)
    found = list(_worst(busy, serving))
    for length in WINDOWS_MS:
        found += _worst(list(_windows(everything, length)), serving)
    once = {
        each.arithmetic: each for each in reversed(found)
    }  # a window may hold a whole busy stretch
    return Report(tuple(reversed(once.values())), unmeasured(everything), dict(unbounded))


def _busy(works: Sequence[Work]) -> Iterator[_Stretch]:
    """Yield the stretches of two and more receipts that overlap. `works` are in order of their starts."""
    current: list[Work] = []
    until = -1
    for work in works:
        if current and work.started >= until:
            if len(current) > 1:
                yield _stretch(current, whole=True)
            current = []
        until = max(until, work.ended) if current else work.ended
        current.append(work)
    if len(current) > 1:
        yield _stretch(current, whole=True)


def _whole(one: _Stretch, within: tuple[int, int] | None) -> _Stretch:
    """Return a busy stretch; one that reaches beyond the time of which every receipt is known may lack some."""
    if within is None:
        return one
    first, last = min(w.started for w in one.works), max(w.ended for w in one.works)
    return replace(one, whole=within[0] <= first and last <= within[1])


def _windows(works: Sequence[Work], length: int) -> Iterator[_Stretch]:
    """Yield, for each window of this length, the receipts that lie wholly in it, if there are two or more."""
    step = length // 2
    inside: defaultdict[int, list[Work]] = defaultdict(list)
    for work in works:
        for k in range(-(-(work.ended - length) // step), work.started // step + 1):
            inside[k].append(work)
    for k in sorted(inside):
        if len(inside[k]) > 1:
            yield _stretch(inside[k], whole=False)


def _stretch(works: Sequence[Work], *, whole: bool) -> _Stretch:
    busy, until = 0, works[0].started
    for work in works:
        busy += max(0, work.ended - max(until, work.started))
        until = max(until, work.ended)
    return _Stretch(tuple(works), busy, whole)


def _worst(stretches: Sequence[_Stretch], serving: Serving) -> Iterator[Finding]:
    """Yield for each check the finding that is furthest beyond its bound."""
    checks: tuple[Callable[[_Stretch, Serving], Finding | None], ...] = (
        _tokens,
        _compute_high,
        _energy_high,
        _energy_low,
    )
    for check in checks:
        found = [each for one in stretches if (each := check(one, serving)) is not None]
        if found:
            worst = max(found, key=_excess)
            count = f" (the worst of {len(found)})" if len(found) > 1 else ""
            yield replace(worst, subject=worst.subject + count)


def _excess(finding: Finding) -> float:
    low, high = sorted((finding.claimed, finding.bound))
    return math.inf if low == 0 else high / low


def _tokens(one: _Stretch, serving: Serving) -> Finding | None:
    """All products share all devices; a reading of the weights serves one step of one model, in one of the engines."""
    devices = serving.together * serving.engines
    known = [work for work in one.works if work.model is not None]
    totals: dict[str, float] = {"products": 0.0, "weights": 0.0}
    texts: dict[str, list[str]] = {"products": [], "weights": []}
    for model in dict.fromkeys(work.model for work in known):
        assert model is not None
        own = [work for work in known if work.model == model]
        positions, outputs = sum(w.positions for w in own), sum(w.output for w in own)
        how = f"{positions:,} positions / {serving.largest_batch:,} in a step / {serving.engines} engines"
        share = positions / serving.largest_batch / serving.engines
        terms = {
            "products": products(model, serving, positions, outputs, devices),
            "weights": readings(model, serving, model.body, share, how),
        }
        for name, term in terms.items():
            totals[name] += term.value
            texts[name].append(term.arithmetic)
    bound = max(totals.values())
    if one.busy + one.slack >= bound:
        return None
    text = "; ".join(chain(texts["products"], texts["weights"]))
    text += f"; at least the larger sum, {bound:.6g} ms; claimed: {one.busy:,} ms in all"
    reasons = loosened(one.works, serving, batch=True)
    return Finding(one.name, Quantity.TOKENS, one.busy, bound, text, reasons)


def _compute_high(one: _Stretch, serving: Serving) -> Finding | None:
    """Shares of steps add up to the steps, of which an engine takes one at a time."""
    claimed = sum(work.compute_ms or 0 for work in one.works)
    bound = one.busy * serving.engines + one.slack
    if claimed <= bound:
        return None
    text = (
        f"time that passed: {one.busy:,} ms × {serving.engines} engines + {one.slack:,} ms of rounding = {bound:,} ms; "
        f"claimed: {claimed:,} ms of compute time in all"
    )
    return Finding(one.name, Quantity.COMPUTE, claimed, bound, text)


def _energy_high(one: _Stretch, serving: Serving) -> Finding | None:
    claimed = sum(work.energy_mj or 0 for work in one.works)
    term = most_energy(one.busy + one.slack, serving)
    if claimed <= term.value:
        return None
    text = f"{term.arithmetic}; claimed: {claimed:,} mJ in all"
    return Finding(one.name, Quantity.ENERGY, claimed, term.value, text)


def _energy_low(one: _Stretch, serving: Serving) -> Finding | None:
    """Some device draws at least its idle power while anything is computed; shares of a counter add up to its growth.

    Not where a share is missing: unmeasured is not zero.
    """
    idle = serving.device.idle_watts
    if idle is None or not one.whole:
        return None
    shares = [(w.compute_ms, w.energy_mj) for w in one.works]
    if any(compute is None or energy is None for compute, energy in shares):
        return None
    computed = sum(compute or 0 for compute, _ in shares)
    claimed = sum(energy or 0 for _, energy in shares)
    ms = max(0, computed - one.slack)
    bound = idle * ms / serving.engines
    if claimed + len(shares) >= bound:
        return None
    text = (
        f"idle power: {idle:g} W × ({computed:,} ms of compute time − {one.slack:,} ms of rounding) / "
        f"{serving.engines} engines = {bound:.6g} mJ; claimed: {claimed:,} mJ in all"
    )
    return Finding(one.name, Quantity.ENERGY, claimed, bound, text)
