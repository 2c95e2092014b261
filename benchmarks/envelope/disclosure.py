"""How long a disclosure takes in a running platform: from evidence and proofs to the transcript secret, without the replay.

The worker asks the node for ciphertexts, five custodians for their releases, logs these, waits until they are witnessed,
and gets three shares. So a checkpoint's publication, with its cosignature, is part of every disclosure, and the interval of
publication decides more than everything else: it is measured at several.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks.common.figures import percentile
from shared.installation.demo import PROMPTS, Demo
from shared.installation.layout import WORKERS, NodePlan, Plan
from shared.installation.platform import running
from shared.installation.query import Query
from shared.installation.serve import Narrator

AIM_MS: Final = 250
INTERVALS_MS: Final = (250, 50)
"""What `counterfoil up` installs, and a log that publishes as fast as its witness and its disk permit."""


async def measure(count: int, interval_ms: int, console: Console) -> dict[str, Any]:
    """Run a platform, have `count` requests audited, and return what the workers' logs say of each disclosure."""
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()[:count]
    with tempfile.TemporaryDirectory(prefix="counterfoil-disclosure-") as folder:
        plan = Plan(
            Path(folder) / "data",
            (NodePlan("node-a", "operator-a"),),
            epoch_seconds=4.0,
            rate_ppm=1_000_000,
            publish_interval_ms=interval_ms,
        )
        async with running(plan, Narrator(console)) as platform:
            token, ca = plan.path("audit", "auditor.token"), plan.path("ca", "ca.pem")
            query = Query(platform.ports["audit-http"], ca, token)
            demo = Demo(platform, console, query)
            await query.selecting(60.0)
            await demo.infer(prompts)
            await demo.audit(-1, len(prompts))
        taken = sorted(
            took for name in WORKERS for took in _taken(plan.path("logs", f"{name}.log"))
        )
    if not taken:
        raise SystemExit("no request was disclosed: nothing was measured")
    return {
        "publish_interval_ms": interval_ms,
        "disclosures": len(taken),
        "median_ms": percentile(taken, 50),
        "p90_ms": percentile(taken, 90),
        "aim_ms": AIM_MS,
    }


def _taken(log: Path) -> Iterator[float]:
    """Yield the times (ms) of a worker's disclosures."""
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            told = json.loads(line)
            if told["message"] == "disclosed":
                yield float(told["took_ms"])
