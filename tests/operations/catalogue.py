"""Every metric of every process, and the tables of docs/operations/metrics.md: `python -m tests.operations.catalogue`."""

from audit_layer.wiring import party_metrics, server_metrics, worker_metrics
from execution_layer.wiring import metrics as nodes
from shared.runtime.metrics import EVERY_PROCESS, Metric
from shared.runtime.rpc_metrics import RPC

SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Every process": EVERY_PROCESS,
    "Every process with gRPC": RPC,
    "Nodes": nodes.NODE,
    "A node's engine": nodes.ENGINE,
    "A head's chain": nodes.CHAIN,
    "Stages": nodes.STAGE,
    "The audit server": server_metrics.SERVER,
    "Audit workers": worker_metrics.WORKER,
    "Audit workers and beat": worker_metrics.CELERY,
    "Witnesses": party_metrics.WITNESS,
    "Custodians": party_metrics.CUSTODIAN,
}


def everything() -> list[Metric]:
    """Return all metrics."""
    return [metric for metrics in SECTIONS.values() for metric in metrics]


def table(metrics: tuple[Metric, ...]) -> list[str]:
    """Return a table's lines."""
    lines = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for one in metrics:
        labels = ", ".join(f"`{label}`" for label in one.labels) or "–"
        lines.append(f"| `{one.name}` | {one.kind.value} | {labels} | {one.help} |")
    return lines


def tables() -> str:
    """Return all tables under their headings."""
    return "\n\n".join(
        f"### {title}\n\n" + "\n".join(table(metrics)) for title, metrics in SECTIONS.items()
    )


if __name__ == "__main__":
    print(tables())
