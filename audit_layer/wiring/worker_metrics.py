"""The metrics of audit workers and beat; docs/operations/metrics.md lists them."""

from collections.abc import Iterator
from typing import Any, Final

from celery.signals import after_task_publish, task_postrun

from audit_layer.replay.counts import WorkerCounts
from shared.codec.moment import now_ms
from shared.runtime.metrics import Counter, Exposition, Kind, Metric, Reading

RUNS: Final = Metric(
    "counterfoil_worker_runs_total",
    Kind.COUNTER,
    "Hints about audits that this worker has followed, by what became of them.",
    ("result",),
)
VERDICTS: Final = Metric(
    "counterfoil_worker_verdicts_total",
    Kind.COUNTER,
    "Verdicts that this process has signed, by outcome and reason.",
    ("outcome", "reason"),
)
REPLAY: Final = Metric(
    "counterfoil_worker_replay_seconds",
    Kind.HISTOGRAM,
    "How long replays took, failed ones included.",
)
REPLAYING: Final = Metric(
    "counterfoil_worker_replaying", Kind.GAUGE, "1 while a replay runs, under this worker's lease."
)
TOKENS: Final = Metric(
    "counterfoil_worker_replayed_tokens_total",
    Kind.COUNTER,
    "Tokens of prompts and outputs that were replayed.",
)
WORKER: Final = (RUNS, VERDICTS, REPLAY, REPLAYING, TOKENS)

TASKS: Final = Metric(
    "counterfoil_tasks_total",
    Kind.COUNTER,
    "Celery tasks that this process has run, by how they ended.",
    ("task", "state"),
)
HINTS: Final = Metric(
    "counterfoil_hints_sent_total",
    Kind.COUNTER,
    "Hints that this process has sent: beat by the clock, the authority for work that waits.",
    ("task",),
)
LAST_HINT: Final = Metric(
    "counterfoil_hints_last_sent_seconds",
    Kind.GAUGE,
    "When it last sent one, in seconds since 1970; missing before the first.",
)
CELERY: Final = (TASKS, HINTS, LAST_HINT)


class CeleryCounts:
    """Counts a process's tasks by Celery's signals. Names are those of `tasks` only."""

    def __init__(self, tasks: frozenset[str]) -> None:
        self._known = tasks
        self.run, self.sent = Counter(), Counter()
        self.last_sent: float | None = None
        after_task_publish.connect(self._published, weak=False)
        task_postrun.connect(self._ran, weak=False)

    def close(self) -> None:
        """Count no more."""
        after_task_publish.disconnect(self._published)
        task_postrun.disconnect(self._ran)

    def readings(self) -> Iterator[Reading]:
        """Yield what was counted so far."""
        yield from self.run.readings(TASKS)
        yield from self.sent.readings(HINTS)
        if self.last_sent is not None:
            yield LAST_HINT(self.last_sent)

    def _published(self, sender: str | None = None, **_: object) -> None:
        self.sent.add(self._name(sender))
        self.last_sent = now_ms() / 1000

    def _ran(self, sender: Any = None, state: str | None = None, **_: object) -> None:
        self.run.add(self._name(getattr(sender, "name", None)), (state or "unknown").lower())

    def _name(self, name: str | None) -> str:
        return name if name in self._known else "other"


def worker_metrics(name: str, counts: WorkerCounts, celery: CeleryCounts) -> Exposition:
    """Return the metrics of a worker."""

    def audits() -> Iterator[Reading]:
        yield from counts.runs.readings(RUNS)
        yield from counts.verdicts.readings(VERDICTS)
        yield REPLAY(counts.replay_s.counts())
        yield REPLAYING(counts.replaying)
        yield TOKENS(counts.tokens)

    return Exposition("worker", name, {"audits": audits, "tasks": celery.readings})


def beat_metrics(name: str, celery: CeleryCounts) -> Exposition:
    """Return the metrics of beat."""
    return Exposition("beat", name, {"tasks": celery.readings})
