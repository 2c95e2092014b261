"""The monitor's decisions about checkpoints, apart from network and disk."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from hashlib import sha256

from audit_layer.monitor.findings import Finding, FoundError, Kind
from shared.codec.moment import to_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import LogPolicy, Witnessed, verify_witnessed

_KINDS: Mapping[Code, Kind] = {
    Code.BAD_SIGNATURE: Kind.SIGNATURE,
    Code.UNTRUSTED_KEY: Kind.SIGNATURE,
    Code.NOT_WITNESSED: Kind.QUORUM,
}


@dataclass(frozen=True, slots=True)
class Verified:
    """The largest checkpoint all of whose entries were recomputed, and when witnesses vouched for it."""

    checkpoint: Checkpoint
    note: str
    """With the signatures, as it was served."""
    edge: Mapping[int, bytes]
    """The partial tiles on the tree's right edge by level: enough to append to it."""
    quorum_time: int
    """POSIX seconds since which a quorum has signed it, by the witnesses' clocks."""
    fresh_at: int
    """The same by our clock: a time in the future counts as the time at which we saw it."""


class Relation(Enum):
    """How a shown checkpoint relates to the verified one."""

    GROWN = auto()
    SAME = auto()
    SMALLER = auto()
    FORKED = auto()


def read_checkpoint(data: bytes, policy: LogPolicy, held: Verified | None) -> Witnessed:
    """Return the checkpoint of a note that meets the log policy; otherwise raise what is wrong as a finding."""
    try:
        return verify_witnessed(data, policy)
    except CounterfoilError as error:
        kind = _KINDS.get(error.code, Kind.MALFORMED)
        raise FoundError(
            Finding(
                kind,
                f"checkpoint after {size_of(held)}",
                f"the checkpoint cannot be believed: {error.detail}",
                {"note": data.decode("utf-8", "replace")},
            )
        ) from error


def no_checkpoint(held: Verified | None, reason: str) -> Finding:
    """Return the finding of a checkpoint that is no longer served, or is served without end."""
    return Finding(
        Kind.MALFORMED if held is None else Kind.MISSING,
        f"checkpoint after {size_of(held)}",
        f"the log does not serve its checkpoint: {reason}",
    )


def size_of(held: Verified | None) -> int:
    """Return the verified size, 0 before the first."""
    return held.checkpoint.size if held else 0


def relate(held: Verified | None, shown: Checkpoint) -> Relation:
    """Compare sizes, and roots where the sizes are equal."""
    if held is None or shown.size > held.checkpoint.size:
        return Relation.GROWN
    if shown.size < held.checkpoint.size:
        return Relation.SMALLER
    return Relation.SAME if shown.root == held.checkpoint.root else Relation.FORKED


def verified(
    witnessed: Witnessed,
    edge: Mapping[int, bytes],
    *,
    threshold: int,
    now_s: int,
    held: Verified | None,
) -> Verified:
    """Return the state after a checkpoint is recomputed, or shown again with later cosignatures."""
    times = sorted(witnessed.times.values(), reverse=True)
    time_s = times[min(threshold, len(times)) - 1]  # one name may count for several members
    fresh = Verified(
        witnessed.checkpoint, witnessed.note.encode(), edge, time_s, min(time_s, now_s)
    )
    if held is None or time_s > held.quorum_time:
        return fresh
    return replace(fresh, quorum_time=held.quorum_time, fresh_at=held.fresh_at)


def fork(held: Verified, shown: Witnessed, nodes: Mapping[str, str] | None = None) -> Finding:
    """Return the finding of two checkpoints that contradict each other.

    `nodes` ("level/index" → hash) are subtrees that lead to the later root and to another root at the
    earlier size; without them, the two notes alone are the proof.
    """
    first, second = sorted((held.checkpoint, shown.checkpoint), key=lambda item: item.size)
    notes = {held.checkpoint: held.note, shown.checkpoint: shown.note.encode()}
    if first.size == second.size:
        detail = f"the log has signed two roots for size {first.size}"
    else:
        detail = f"the checkpoint at {second.size} does not extend the one signed at {first.size}"
    return Finding(
        Kind.FORK,
        f"{first.size}:{first.root.hex()}:{second.size}:{second.root.hex()}",
        detail,
        {"first": notes[first], "second": notes[second], "nodes": dict(nodes or {})},
    )


def rollback(held: Verified, shown: Witnessed) -> Finding:
    """Return the finding of a checkpoint smaller than one verified before."""
    return Finding(
        Kind.ROLLBACK,
        f"{held.checkpoint.size}:{shown.checkpoint.size}:{shown.checkpoint.root.hex()}",
        f"the log shows size {shown.checkpoint.size} after {held.checkpoint.size}",
        {"first": held.note, "second": shown.note.encode()},
    )


def staleness(held: Verified | None, since: int, now_s: int, limit_s: int) -> Finding | None:
    """Return a finding when witnesses have vouched for nothing new in `limit_s` seconds (0: never).

    A log at rest has its newest checkpoint cosigned again; one that does not cannot be told from one that hides its
    entries. Before the first checkpoint, time counts from `since`, when the monitor began.
    """
    fresh_at = held.fresh_at if held else since
    age_s = now_s - fresh_at
    if not limit_s or age_s <= limit_s:
        return None
    what = f"size {held.checkpoint.size}, witnessed" if held else "none, watched since"
    return Finding(
        Kind.STALE,
        str(fresh_at),
        f"no newer witnessed checkpoint in {age_s} s: the last is {what} {utc(fresh_at)}",
    )


def root_mismatch(held: Verified | None, shown: Witnessed) -> Finding:
    """Return the finding of entries and tiles that agree, but not with the signed root."""
    before = size_of(held)
    size = shown.checkpoint.size
    return Finding(
        Kind.DAMAGE,
        f"root at {size}:{shown.checkpoint.root.hex()}",
        f"the entries served up to {size} do not lead to the root signed for that size:"
        f" the log is damaged, or it forked after {before} and does not serve the tree it signs",
        {"first": held.note if held else "", "second": shown.note.encode()},
    )


def utc(seconds: int) -> str:
    """Return POSIX seconds as people and programs read them; the far future as the last known year."""
    return to_rfc3339(min(seconds, 253_402_300_799) * 1000)


def digest(data: bytes) -> str:
    """Return a short name for some bytes."""
    return sha256(data).hexdigest()[:16]
