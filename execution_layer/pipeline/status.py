"""How a head's chain stands, in a small file beside its spool: written once a second, read by whoever may read the folder."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from execution_layer.pipeline.settings import NodeId
from execution_layer.pipeline.tally import Tally
from shared.codec.moment import MAX_MS, now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import write_private
from shared.runtime.printable import printable
from shared.runtime.reading import read_bounded

EVERY_S: Final = 1.0
SPAN_S: Final = 5.0
"""Rates are those of so many seconds."""
STALE_MS: Final = 5000
"""What was written longer ago says nothing of now."""
MOST_BYTES: Final = 64 * 1024
_log = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=0, le=2**63)]
Moment = Annotated[int, Field(ge=0, le=MAX_MS)]
Rate = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StageStatus(_Model):
    """One stage of the chain."""

    layers: Annotated[str, Field(pattern=r"^\d{1,5}:\d{1,5}$")]
    name: NodeId | None = None
    """Of a stage that answers for itself."""
    address: Annotated[str, Field(max_length=300)] | None = None
    """Where it is; None for the head's own layers."""
    busy: Rate | None = None
    """Seconds that it says it has computed, per second; None if it says nothing."""


class ChainStatus(_Model):
    """The file's content. Times are milliseconds since 1970."""

    version: Literal[1] = 1
    node: NodeId
    written_at: Moment
    since: Moment
    """Since when the head has run."""
    connected_at: Moment | None = None
    """Since when the chain is connected; None if it is not."""
    stages: Annotated[list[StageStatus], Field(min_length=1, max_length=65)]
    head_busy: Rate
    """Seconds of embedding, head and sampling, per second."""
    running: Count
    """Sequences."""
    rows: Count
    """Under way, in `under_way` steps of the `depth` that may be, which is at most `most`."""
    under_way: Count
    depth: Count
    most: Count
    trip_ms: Rate | None = None
    """What all hops of one round take together; None before it was measured."""
    tokens_per_s: Rate
    tokens: Count
    steps: Count
    connections: Count
    breaks: Count
    last_break: Annotated[str, Field(max_length=200)] | None = None

    def age_ms(self, now: int) -> int:
        """Return how long ago it was written."""
        return max(0, now - self.written_at)


def status_of(
    node: str, stages: Sequence[StageStatus], most: int, history: Sequence[tuple[float, Tally]]
) -> ChainStatus:
    """Return how a chain stands, from its tallies (with monotonic seconds, at least two), of which the last is of now."""
    (then, old), (now, new) = history[0], history[-1]
    seconds = max(1e-3, now - then)
    known = len(new.stages_s) == len(stages)
    before = old.stages_s if len(old.stages_s) == len(new.stages_s) else (0.0,) * len(new.stages_s)
    return ChainStatus(
        node=node,
        written_at=now_ms(),
        since=round(1000 * new.since),
        connected_at=None if new.connected_at is None else round(1000 * new.connected_at),
        stages=[
            stage.model_copy(
                update={"busy": (new.stages_s[at] - before[at]) / seconds if known else None}
            )
            for at, stage in enumerate(stages)
        ],
        head_busy=(new.ends_s - old.ends_s) / seconds,
        running=new.running,
        rows=new.rows,
        under_way=new.under_way,
        depth=new.depth,
        most=most,
        trip_ms=None if new.trip_s is None else 1000 * new.trip_s,
        tokens_per_s=(new.tokens - old.tokens) / seconds,
        tokens=new.tokens,
        steps=new.steps,
        connections=new.connections,
        breaks=new.breaks,
        last_break=None if new.last_break is None else printable(new.last_break, 200),
    )


def read_status(path: Path) -> ChainStatus:
    """Return what a head has written; NOT_FOUND if it has not, CORRUPT for anything else."""
    if not path.exists():
        raise CounterfoilError(
            Code.NOT_FOUND,
            f"there is no {path}: this node has not served with its chain yet",
            remedy="Start it with `counterfoil node serve`; it writes the file once a second.",
        )
    data = read_bounded(path, MOST_BYTES, code=Code.CORRUPT, regular=True)
    try:
        return ChainStatus.model_validate_json(data if len(data) <= MOST_BYTES else b"")
    except ValidationError:
        raise CounterfoilError(
            Code.CORRUPT,
            f"{path} is not what a node writes about its chain",
            remedy="The running node replaces it within a second; otherwise delete it.",
        ) from None  # the cause would repeat what is in it


class Reporter:
    """Writes how a chain stands once a second, in a thread of its own, and at last when it is let go."""

    def __init__(
        self, path: Path, look: Callable[[], Tally], status: Callable[..., ChainStatus]
    ) -> None:
        """`status` returns the content, given the tallies of the latest seconds."""
        self._path, self._look, self._status = path, look, status
        self._history = deque([(time.monotonic(), look())])
        self._failed = False

    def start(self, closed: threading.Event) -> threading.Thread:
        """Begin; `closed` is set when the chain is let go. The thread that is returned ends then."""
        thread = threading.Thread(target=self._run, args=(closed,), name="status", daemon=True)
        thread.start()
        return thread

    def write(self) -> None:
        """Write how it stands now. A file that cannot be written is logged once, and nothing else suffers."""
        now = time.monotonic()
        self._history.append((now, self._look()))
        while len(self._history) > 2 and now - self._history[0][0] > SPAN_S:
            self._history.popleft()
        data = self._status(self._history).model_dump_json(exclude_none=True, indent=1)
        try:
            write_private(self._path, data.encode() + b"\n")
        except OSError as error:
            if not self._failed:
                _log.warning("the chain's status cannot be written", extra={"error": str(error)})
            self._failed = True
        else:
            self._failed = False

    def _run(self, closed: threading.Event) -> None:
        over = False
        while not over:
            over = closed.wait(EVERY_S)
            self.write()
