"""Stored timestamps: appended once per checkpoint, read, and checked by `log fsck`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.x509 import Certificate
from sqlalchemy import Connection, Row, text

from shared.runtime.errors import CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.timestamp import verify_timestamp

_COLUMNS = "stamp.size, stamp.time, stamp.reply, checkpoint.root, checkpoint.published_at"
_FROM = "FROM log_timestamps stamp LEFT JOIN log_checkpoints checkpoint USING (size)"


@dataclass(frozen=True, slots=True)
class Timestamp:
    """One stored timestamp; `time` in ms, as its authority states it."""

    size: int
    time: int
    reply: bytes
    root: bytes | None
    """Of the checkpoint; None when the table of checkpoints lacks it."""
    published: bool


def due(connection: Connection, origin: str, interval_ms: int) -> Checkpoint | None:
    """Return the newest published checkpoint if it is not stamped and the last stamp is old enough."""
    last = connection.execute(
        text("SELECT size, time FROM log_timestamps ORDER BY size DESC LIMIT 1")
    ).one_or_none()
    newest = connection.execute(
        text(
            "SELECT size, root FROM log_checkpoints WHERE published_at IS NOT NULL"
            " ORDER BY size DESC LIMIT 1"
        )
    ).one_or_none()
    if newest is None:
        return None
    if last is not None and (
        last.size >= newest.size or time.time_ns() // 1_000_000 - last.time < interval_ms
    ):
        return None
    return Checkpoint(origin, newest.size, bytes(newest.root))


def store(connection: Connection, size: int, time_ms: int, reply: bytes) -> None:
    """Keep a verified timestamp; the first one of a size stays."""
    connection.execute(
        text(
            "INSERT INTO log_timestamps (size, time, reply) VALUES (:size, :time, :reply)"
            " ON CONFLICT (size) DO NOTHING"
        ),
        {"size": size, "time": time_ms, "reply": reply},
    )


def at_size(connection: Connection, size: int) -> Timestamp | None:
    """Return the timestamp of one checkpoint."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS} {_FROM} WHERE size = :size"),
        {"size": size},
    ).one_or_none()
    return None if row is None else _timestamp(row)


def page(connection: Connection, before: int | None, limit: int) -> list[Timestamp]:
    """Return up to `limit` timestamps of checkpoints smaller than `before`, the largest first."""
    rows = connection.execute(
        text(
            f"SELECT {_COLUMNS} {_FROM}"
            " WHERE CAST(:before AS bigint) IS NULL OR size < :before"
            " ORDER BY size DESC LIMIT :limit"
        ),
        {"before": before, "limit": limit},
    )
    return [_timestamp(row) for row in rows]


def check_timestamps(
    connection: Connection, origin: str, anchors: Sequence[Certificate]
) -> Iterator[str]:
    """Verify every stored timestamp against its checkpoint; yield what is wrong, one line each, with its column."""
    before: int | None = None
    while stamps := page(connection, before, 256):
        for stamp in stamps:
            if not anchors:
                yield (
                    "log_timestamps: nothing is configured to verify them with; keep the authority's"
                    " certificate as `ca` of [timestamps]"
                )
                return
            problem = _problem(stamp, origin, anchors)
            if problem is not None:
                yield f"log_timestamps[size={stamp.size}].{problem}"
        before = stamps[-1].size


def _problem(stamp: Timestamp, origin: str, anchors: Sequence[Certificate]) -> str | None:
    if stamp.root is None or not stamp.published:
        return "size: no published checkpoint has it"
    try:
        time_ms = verify_timestamp(stamp.reply, Checkpoint(origin, stamp.size, stamp.root), anchors)
    except CounterfoilError as e:
        return f"reply: {e.detail}"
    return None if time_ms == stamp.time else f"time: its reply states {time_ms}"


def _timestamp(row: Row[*tuple[Any, ...]]) -> Timestamp:
    size, time_ms, reply, root, published_at = row
    return Timestamp(
        size, time_ms, bytes(reply), None if root is None else bytes(root), published_at is not None
    )
