"""What a process counts about itself, and how it says it in Prometheus's text format.

A room counts in plain numbers and `Histogram`s, and knows nothing of this format. The `wiring` of its process declares
`Metric`s, and reads those numbers when somebody asks. Labels take few values that are known beforehand (protocol words, states,
codes), or the process's own names: never a tenant, a request, an address or anything that came from outside. So whoever reads
metrics learns sums, and the number of series is bounded.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast

from shared.runtime.logs import incident

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FRESH_S: Final = 1.0
"""Whoever asks again within this time gets the same text: many scrapes cost no more than one."""
MOST_SERIES: Final = 1024
"""Of one metric. More are a mistake of ours, and are left out."""
_log = logging.getLogger(__name__)


class Kind(StrEnum):
    """Prometheus's types, as far as they are used."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as it is documented. The name of a counter ends with `_total`; times are seconds, sizes bytes, energy joules."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.name.startswith("counterfoil_")
        assert self.name.endswith("_total") == (self.kind is Kind.COUNTER)

    def __call__(self, value: "float | Counts", *labels: str) -> "Reading":
        """Return what was read, with a value for each label."""
        assert len(labels) == len(self.labels)
        return Reading(self, value, labels)


@dataclass(frozen=True, slots=True)
class Counts:
    """A histogram at one moment: (upper bound, observations up to it) in order, the last bound infinite, and their sum."""

    buckets: tuple[tuple[float, int], ...]
    sum: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a metric."""

    metric: Metric
    value: float | Counts
    labels: tuple[str, ...] = ()


Read = Callable[[], Iterable[Reading]]
"""Reads some of a process's metrics, from any thread."""


class Histogram:
    """Counts observations by size. Thread-safe; an observation costs less than a microsecond."""

    def __init__(self, bounds: Sequence[float]) -> None:
        assert list(bounds) == sorted(set(bounds))
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one."""
        at = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[at] += 1
            self._sum += value

    def counts(self) -> Counts:
        """Return what was counted so far."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        seen, buckets = 0, []
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            seen += count
            buckets.append((bound, seen))
        return Counts(tuple(buckets), total)


class Counter:
    """Counts events by label values, which must be few. Thread-safe."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count one, or an amount."""
        with self._lock:
            self._counts[labels] = self._counts.get(labels, 0) + amount

    def readings(self, metric: Metric) -> list[Reading]:
        """Return what was counted so far, as readings of a metric."""
        with self._lock:
            return [metric(count, *labels) for labels, count in sorted(self._counts.items())]


PROCESS: Final = Metric(
    "counterfoil_process_info",
    Kind.GAUGE,
    "Always 1; its labels say which process this is.",
    ("process", "name", "version"),
)
FAILED_SOURCES: Final = Metric(
    "counterfoil_metrics_failed_sources",
    Kind.GAUGE,
    "Parts of this process whose metrics could not be read this time, and are missing; its log says why.",
)
EVERY_PROCESS: Final = (PROCESS, FAILED_SOURCES)


@dataclass(slots=True)
class Exposition:
    """A process's metrics as text."""

    process: str
    """Which kind of process it is."""
    name: str
    """Its own name in its configuration."""
    sources: Mapping[str, Read]
    """A source that fails is missing from the text, and the others are not."""
    clock: Callable[[], float] = time.monotonic
    _failing: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _made: tuple[float, bytes] | None = None

    def text(self) -> bytes:
        """Return the metrics, at most `FRESH_S` old, as UTF-8. Thread-safe."""
        with self._lock:
            now = self.clock()
            if self._made is None or now - self._made[0] >= FRESH_S:
                self._made = (now, render(self._read()))
            return self._made[1]

    def _read(self) -> Iterator[Reading]:
        yield PROCESS(1, self.process, self.name, version("counterfoil"))
        failed = 0
        for name, read in self.sources.items():
            try:
                found = list(read())
            except Exception as error:  # noqa: BLE001  # metrics never harm the process, nor hide each other
                failed += 1
                if name not in self._failing:
                    self._failing.add(name)
                    incident(_log, error, f"the metrics of {name}")
                continue
            self._failing.discard(name)
            yield from found
        yield FAILED_SOURCES(failed)


def render(readings: Iterable[Reading]) -> bytes:
    """Return readings in the text format, with what the operating system says of this process."""
    from prometheus_client.exposition import generate_latest  # noqa: PLC0415  # not needed without a scrape
    from prometheus_client.process_collector import ProcessCollector  # noqa: PLC0415  # likewise

    families: dict[str, Family] = {}
    series: dict[str, int] = {}
    for reading in readings:
        name = reading.metric.name
        if name not in families:
            families[name] = _family(reading.metric)
        series[name] = series.get(name, 0) + 1
        if series[name] <= MOST_SERIES:
            _add(families[name], reading)
    process = ProcessCollector(registry=None).collect()
    return bytes(generate_latest(cast("Any", _Collected([*families.values(), *process]))))


@dataclass(frozen=True, slots=True)
class _Collected:
    """Stands in for a registry: the process that counts does not keep one."""

    families: Sequence[Any]

    def collect(self) -> Iterable[Any]:
        return self.families


def _family(metric: Metric) -> "Family":
    from prometheus_client import metrics_core  # noqa: PLC0415  # likewise

    kinds: dict[Kind, Any] = {
        Kind.GAUGE: metrics_core.GaugeMetricFamily,
        Kind.COUNTER: metrics_core.CounterMetricFamily,
        Kind.HISTOGRAM: metrics_core.HistogramMetricFamily,
    }
    family: Family = kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
    return family


def _add(family: Any, reading: Reading) -> None:
    value = reading.value
    if isinstance(value, Counts):
        buckets = [
            ("+Inf" if bound == float("inf") else repr(float(bound)), count)
            for bound, count in value.buckets
        ]
        family.add_metric(reading.labels, buckets, value.sum)
    else:
        family.add_metric(reading.labels, value)
