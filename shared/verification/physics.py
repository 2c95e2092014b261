"""Whether a receipt's claims about tokens, time and energy are physically plausible, on the node's own hardware. Pure.

Protocol §4.8 convicts what is impossible on any machine. This is the finer finding of the books: it knows the model's
size and the device, convicts nobody, and shows its arithmetic. A bound errs towards believing the claim: peak rates,
perfect overlap of reading and computing, no attention, no cache of keys and values, no communication.

The roofline behind it (S. Williams, A. Waterman, D. Patterson, Comm. ACM 52(4), 2009): a pass of a decoder takes at least
its products divided by the peak rate, and at least the time to read the weights once, which all positions of a step share.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.receipts import Receipt
from shared.verification.devices import Device

HEADROOM: Final = 1.25
"""By how much clocks and power may exceed a data sheet. Overclocking has brought an RTX 4090 from 2.52 to 3.15 GHz and from
450 to 547 W (wccftech.com, 2022-10-11): factors of 1.25 and 1.22."""
MOST: Final = 2**64 - 1
"""The largest number that a statement can hold."""
ROUNDING_MS: Final = 2
"""How far a difference of two times in whole milliseconds, and another rounded time, may be apart."""


class Quantity(StrEnum):
    """What a claim is about."""

    TOKENS = "tokens"
    """That so many tokens were computed in so little time."""
    COMPUTE = "compute"
    ENERGY = "energy"


@dataclass(frozen=True, slots=True)
class Model:
    """The size of a model, in parameters."""

    body: int
    """That every position is multiplied with; of a mixture, in the experts that one position takes. Without embeddings."""
    head: int = 0
    """Of the output head: vocabulary × width. Multiplied once for each output token."""
    weight_bits: int = 16
    """Of a stored parameter."""
    resident: int | None = None
    """Of a mixture: `body` with all experts. None if it is none."""

    def __post_init__(self) -> None:
        _require(0 < self.body <= MOST and 0 <= self.head <= MOST, "a model needs parameters")
        _require(1 <= self.weight_bits <= 64, "a parameter has 1 to 64 bits")
        _require(self.resident is None or self.resident >= self.body, "a mixture needs its experts")


@dataclass(frozen=True, slots=True)
class Serving:
    """What a node runs on, and what it declares about how. Declared values loosen bounds, and findings say so."""

    device: Device
    together: int = 1
    """Devices that work on one request at the same time."""
    engines: int = 1
    """Such groups in the node, each with requests of its own."""
    largest_batch: int = 1
    """The most positions in one step: a sequence that decodes is one, a prompt as many as are computed at once."""
    tokens_per_pass: int = 1
    """The most output tokens that one pass can yield for a sequence: more than 1 with speculation."""
    weight_bits: int | None = None
    """Of a parameter as it is served, where it is quantised."""
    in_flight: int | None = None
    """The most requests that share an energy counter, where it is known."""
    host_watts: float = 0.0
    """Power of everything else, where the meter counts it."""

    def __post_init__(self) -> None:
        counts = [self.together, self.engines, self.largest_batch, self.tokens_per_pass]
        counts += [] if self.in_flight is None else [self.in_flight]
        _require(
            min(counts) > 0 and max(counts) <= MOST,
            "devices, engines, batch, tokens of a pass and requests in flight are at least 1",
        )
        _require(self.weight_bits is None or 1 <= self.weight_bits <= 64, "1 to 64 bits")
        _require(0 <= self.host_watts < math.inf, "a host's power is a number")

    def most_watts(self) -> float:
        """Return what the whole node can draw, W."""
        return self.device.watts * self.together * self.engines * HEADROOM + self.host_watts


@dataclass(frozen=True, slots=True)
class Work:
    """One receipt's claims. Times in ms, energy in mJ; None is unmeasured."""

    name: str
    """How findings call it: the receipt's entry in hex."""
    started: int
    ended: int
    input: int
    cached: int
    output: int
    compute_ms: int | None = None
    energy_mj: int | None = None
    model: Model | None = None
    """None if nobody knows the size of the model."""

    def __post_init__(self) -> None:
        _require(0 <= self.started <= self.ended <= MOST, "it ended before it started")
        _require(self.cached <= self.input, "more tokens are cached than there were")
        values = (self.input, self.cached, self.output, self.compute_ms or 0, self.energy_mj or 0)
        _require(min(values) >= 0 and max(values) <= MOST, "a claim does not fit into 64 bits")

    @classmethod
    def of(cls, name: str, receipt: Receipt, model: Model | None) -> Self:
        """Return the claims of a receipt."""
        usage = receipt.usage
        return cls(
            name,
            receipt.started,
            receipt.ended,
            usage.input,
            usage.cached,
            usage.output,
            usage.compute_ms,
            usage.energy_mj,
            model,
        )

    @property
    def elapsed(self) -> int:
        """From start to end, ms."""
        return self.ended - self.started

    @property
    def positions(self) -> int:
        """Positions that must have been computed: the prompt without what a cache held, and every output token but the
        last. None without output, because a request may end before its prompt is computed.
        """
        return self.input - self.cached + self.output - 1 if self.output else 0


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim beyond its bound."""

    subject: str
    """The receipt, or the stretch of time."""
    quantity: Quantity
    claimed: float
    bound: float
    """In ms, or mJ for energy; claimed values that are floors' lie below it, ceilings' above."""
    arithmetic: str
    """How the bound comes about, with its numbers."""
    loosened_by: tuple[str, ...] = ()
    """What the node declared that can make the bound looser."""


@dataclass(frozen=True, slots=True)
class Report:
    """Findings, and what could not be checked: that is not the same as plausible."""

    findings: tuple[Finding, ...]
    unmeasured: Mapping[Quantity, int]
    """Receipts without a value."""
    unbounded: Mapping[str, int]
    """Why claims had no bound, and how many."""


@dataclass(frozen=True, slots=True)
class Term:
    """A bound on time (ms) or energy (mJ), and how it is computed."""

    value: float
    arithmetic: str


def products(model: Model, serving: Serving, positions: int, outputs: int, devices: int) -> Term:
    """Return the time of all products on so many devices: two operations for each parameter and position."""
    peak = serving.device.peak(_bits(model, serving))
    ms = 2 * (model.body * positions + model.head * outputs) / (devices * peak * HEADROOM) * 1e3
    return Term(
        ms,
        f"products: 2 × ({model.body:,} × {positions:,} + {model.head:,} × {outputs:,}) / "
        f"({devices} × {peak:g} a second × {HEADROOM}) × 1000 = {ms:.6g} ms",
    )


def readings(model: Model, serving: Serving, parameters: int, passes: float, how: str) -> Term:
    """Return the time in which one group of devices reads so many parameters in each pass, less what stays on the chips."""
    weights = parameters * _bits(model, serving) / 8
    kept = serving.together * serving.device.on_chip
    speed = serving.together * serving.device.bandwidth * HEADROOM
    ms = passes * max(0.0, weights - kept) / speed * 1e3
    return Term(
        ms,
        f"weights: {how} × max(0, {weights:,.0f} − {serving.together} × {serving.device.on_chip:,.0f}) bytes / "
        f"({serving.together} × {serving.device.bandwidth:g} bytes a second × {HEADROOM}) × 1000 = {ms:.6g} ms",
    )


def check_receipt(work: Work, serving: Serving) -> Report:
    """Compare one receipt's claims with what its node's hardware can do."""
    found: list[Finding | None] = [_compute_high(work), _energy_high(work, serving)]
    unbounded: Counter[str] = Counter()
    if work.model is None:
        unbounded["the model's size is not known"] += 1
    else:
        found += [_tokens(work, work.model, serving), _compute_low(work, work.model, serving)]
    if work.energy_mj is not None and work.compute_ms is not None:
        if serving.device.idle_watts is None:
            unbounded["the device's idle power is not known"] += 1
        elif serving.in_flight is None:
            unbounded["how many requests share the energy counter is not known"] += 1
        else:
            found.append(_energy_low(work, serving.device.idle_watts, serving.in_flight))
    return Report(tuple(each for each in found if each), unmeasured((work,)), dict(unbounded))


def unmeasured(works: tuple[Work, ...]) -> dict[Quantity, int]:
    """Return how many receipts have no value, by quantity; quantities that all have are left out."""
    counts = {
        Quantity.COMPUTE: sum(work.compute_ms is None for work in works),
        Quantity.ENERGY: sum(work.energy_mj is None for work in works),
    }
    return {quantity: count for quantity, count in counts.items() if count}


def loosened(
    works: tuple[Work, ...], serving: Serving, *, batch: bool = False, passes: bool = False
) -> tuple[str, ...]:
    """Return what was declared that makes the floors of this work lower."""
    models = {work.model for work in works if work.model is not None}
    cached, inputs = sum(work.cached for work in works), sum(work.input for work in works)
    reasons = []
    if cached:
        reasons.append(f"caching: {cached:,} of {inputs:,} input tokens were not computed")
    if passes and serving.tokens_per_pass > 1:
        reasons.append(f"speculation: a pass yields up to {serving.tokens_per_pass} tokens")
    if batch and serving.largest_batch > 1:
        reasons.append(f"batching: up to {serving.largest_batch:,} positions share a step")
    for model in sorted(models, key=lambda model: (model.body, model.head, model.weight_bits)):
        if serving.weight_bits is not None and serving.weight_bits < model.weight_bits:
            reasons.append(
                f"quantisation: {serving.weight_bits} bits for each parameter, not {model.weight_bits}"
            )
        if model.resident is not None and model.resident > model.body:
            reasons.append(f"mixture: {model.body:,} of {model.resident:,} parameters take part")
    return tuple(dict.fromkeys(reasons))


def _tokens(work: Work, model: Model, serving: Serving) -> Finding | None:
    """A sequence's passes follow each other, whatever else shares them."""
    passes = -(-work.output // serving.tokens_per_pass)
    how = f"⌈{work.output:,} tokens / {serving.tokens_per_pass} a pass⌉"
    terms = (
        products(model, serving, work.positions, work.output, serving.together),
        readings(model, serving, model.body + model.head, passes, how),
    )
    bound = max(term.value for term in terms)
    if work.elapsed + ROUNDING_MS >= bound:
        return None
    text = f"{_joined(terms)}; claimed: {work.elapsed:,} ms from start to end"
    reasons = loosened((work,), serving, passes=True)
    return Finding(work.name, Quantity.TOKENS, work.elapsed, bound, text, reasons)


def _compute_low(work: Work, model: Model, serving: Serving) -> Finding | None:
    """`compute_ms` is a share of steps: a position's is at least its products, and its part of one reading.

    Not every step computes the head, and those that do share it among all their positions: it is left out.
    """
    if work.compute_ms is None:
        return None
    share = work.positions / serving.largest_batch
    how = f"{work.positions:,} positions / {serving.largest_batch:,} in a step"
    terms = (
        products(model, serving, work.positions, 0, serving.together),
        readings(model, serving, model.body, share, how),
    )
    bound = max(term.value for term in terms)
    if work.compute_ms + ROUNDING_MS >= bound:
        return None
    text = f"{_joined(terms)}; claimed: {work.compute_ms:,} ms of compute time"
    reasons = loosened((work,), serving, batch=True)
    return Finding(work.name, Quantity.COMPUTE, work.compute_ms, bound, text, reasons)


def _compute_high(work: Work) -> Finding | None:
    bound = work.elapsed + ROUNDING_MS
    if work.compute_ms is None or work.compute_ms <= bound:
        return None
    text = (
        f"time that passed: {work.elapsed:,} ms + {ROUNDING_MS} ms of rounding = {bound:,} ms; "
        f"claimed: {work.compute_ms:,} ms of compute time"
    )
    return Finding(work.name, Quantity.COMPUTE, work.compute_ms, bound, text)


def _energy_high(work: Work, serving: Serving) -> Finding | None:
    if work.energy_mj is None:
        return None
    term = most_energy(work.elapsed + ROUNDING_MS, serving)
    if work.energy_mj <= term.value:
        return None
    text = f"{term.arithmetic}; claimed: {work.energy_mj:,} mJ"
    return Finding(work.name, Quantity.ENERGY, work.energy_mj, term.value, text)


def most_energy(ms: float, serving: Serving) -> Term:
    """Return the most energy, mJ, that the node can use in a time."""
    most = serving.most_watts() * ms
    return Term(
        most,
        f"power cap: ({serving.together * serving.engines} × {serving.device.watts:g} W × {HEADROOM} + "
        f"{serving.host_watts:g} W) × {ms:,} ms = {most:.6g} mJ",
    )


def _energy_low(work: Work, idle: float, in_flight: int) -> Finding | None:
    """While a request is computed, one device at least draws its idle power, shared among those in flight."""
    assert work.energy_mj is not None
    assert work.compute_ms is not None
    ms = max(0, work.compute_ms - ROUNDING_MS)
    bound = idle * ms / in_flight
    if work.energy_mj + 1 >= bound:
        return None
    text = (
        f"idle power: {idle:g} W × {ms:,} ms / {in_flight:,} requests in flight = {bound:.6g} mJ; "
        f"claimed: {work.energy_mj:,} mJ"
    )
    reasons = (f"batching: up to {in_flight:,} requests share the counter",) * (in_flight > 1)
    return Finding(work.name, Quantity.ENERGY, work.energy_mj, bound, text, reasons)


def _bits(model: Model, serving: Serving) -> int:
    return min(model.weight_bits, serving.weight_bits or model.weight_bits)


def _joined(terms: tuple[Term, ...]) -> str:
    return f"{'; '.join(term.arithmetic for term in terms)}; at least the larger"


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise CounterfoilError(Code.INVALID_ARGUMENT, problem)
