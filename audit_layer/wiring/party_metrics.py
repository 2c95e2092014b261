"""The metrics of witnesses and custodians; docs/operations/metrics.md lists them."""

from collections.abc import Iterator
from typing import Final

from audit_layer.custodian.core import Custodian
from audit_layer.witness.core import Witness
from shared.codec.moment import now_ms
from shared.runtime.metrics import Exposition, Kind, Metric, Reading

SIZE: Final = Metric(
    "counterfoil_witness_size",
    Kind.GAUGE,
    "Size of the latest checkpoint that was cosigned; missing before the first.",
)
AGE: Final = Metric(
    "counterfoil_witness_changed_seconds",
    Kind.GAUGE,
    "When the log's checkpoint last changed here, in seconds since 1970; missing before the first.",
)
FORKS: Final = Metric(
    "counterfoil_witness_forks",
    Kind.GAUGE,
    "Signed checkpoints that contradict a cosigned one: proof that the log has forked.",
)
ANSWERS: Final = Metric(
    "counterfoil_witness_answers_total",
    Kind.COUNTER,
    "Answers to `add-checkpoint` by HTTP status: 200 is a cosignature, 409 and 422 do not continue what is held.",
    ("status",),
)
WITNESS: Final = (SIZE, AGE, FORKS, ANSWERS)

RELEASED: Final = Metric(
    "counterfoil_custodian_releases_last_day",
    Kind.GAUGE,
    "Releases of the last 24 hours, by the rule that drew the receipt.",
    ("drawn_by",),
)
LIMIT: Final = Metric(
    "counterfoil_custodian_releases_limit",
    Kind.GAUGE,
    "The most that may be released in 24 hours, whatever the rule.",
)
HANDED_OUT: Final = Metric(
    "counterfoil_custodian_shares_total", Kind.COUNTER, "Shares that were handed out, ever."
)
REFUSALS: Final = Metric(
    "counterfoil_custodian_reports",
    Kind.GAUGE,
    "Refusals by the custodian's own rules that it keeps as reports.",
    ("rule",),
)
ESCROW: Final = Metric(
    "counterfoil_custodian_escrow_reports_total",
    Kind.COUNTER,
    "Wraps that did not fit, reported ever.",
)
CUSTODIAN: Final = (RELEASED, LIMIT, HANDED_OUT, REFUSALS, ESCROW)


def witness_metrics(witness: Witness) -> Exposition:
    """Return the metrics of a witness."""

    def read() -> Iterator[Reading]:
        for standing in witness.standings():
            yield SIZE(standing.size)
            yield AGE(standing.changed_at)
        yield FORKS(witness.forks())
        yield from witness.answers.readings(ANSWERS)

    return Exposition("witness", witness.name, {"the log": read})


def custodian_metrics(custodian: Custodian) -> Exposition:
    """Return the metrics of a custodian."""

    def read() -> Iterator[Reading]:
        counts = custodian.store.counts(now_ms())
        for kind, count in sorted(counts.released.items()):
            yield RELEASED(count, kind.value)
        yield LIMIT(custodian.terms.limits.max_releases_per_day)
        yield HANDED_OUT(counts.handed_out)
        for rule, count in counts.reports.items():
            yield REFUSALS(count, rule)
        yield ESCROW(counts.escrow_reports)

    return Exposition("custodian", custodian.name, {"releases": read})
