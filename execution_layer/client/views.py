"""What a client can show others about its log: the history that it was shown, and evidence against the log.

Two clients to whom a log shows two histories find out when they compare: one exports its view, the other compares it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from execution_layer.client.log_memory import LogMemory
from execution_layer.client.log_records import LogRecords, Suspect
from shared.codec.moment import to_rfc3339
from shared.codec.strict_json import strict_json
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.reading import read_bounded
from shared.translog.checkpoint import Checkpoint, parse_checkpoint
from shared.translog.notes import MAX_NOTE_BYTES, parse_note
from shared.translog.policy import LogPolicy, Witnessed, verify_witnessed
from shared.translog.policy_file import PolicyFile

VIEW: Final = "counterfoil-view/v1"
EVIDENCE: Final = "counterfoil-evidence/v1"
MOST_NOTES: Final = 256
MAX_VIEW: Final = 16 * 2**20


def encode_view(archive: LogRecords) -> bytes:
    """Return the accepted checkpoints, the newest `MOST_NOTES`; nothing in them says what the client asked for.
    NOT_FOUND before the first.
    """
    notes = archive.checkpoints(MOST_NOTES)
    if not notes:
        raise CounterfoilError(
            Code.NOT_FOUND,
            "the archive has no checkpoint yet",
            remedy="It has one after the first request.",
        )
    return _encoded({"format": VIEW, "checkpoints": notes})


def read_view(path: Path, policy: LogPolicy) -> list[Witnessed]:
    """Read another client's view; MALFORMED, or what `verify_witnessed` raises for a checkpoint that our policy refuses."""
    data = read_bounded(path, MAX_VIEW, code=Code.NOT_FOUND)
    try:
        values = strict_json(data) if len(data) <= MAX_VIEW else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("format") != VIEW:
        raise _malformed(path)
    notes = values.get("checkpoints")
    if not isinstance(notes, list) or not 1 <= len(notes) <= MOST_NOTES:
        raise _malformed(path)
    if not all(isinstance(note, str) and len(note) <= MAX_NOTE_BYTES for note in notes):
        raise _malformed(path)
    return [verify_witnessed(note, policy) for note in notes]


async def compare_view(
    file: Path, memory: LogMemory, archive: LogRecords, policy: LogPolicy
) -> dict[str, int]:
    """Hold another client's view against ours; return how many sizes both have, and the two largest. FORK, or UNAVAILABLE."""
    others = read_view(file, policy)
    largest = max(seen.checkpoint.size for seen in others)
    kept = archive.largest_checkpoint(others[0].checkpoint.origin)
    common = await memory.compare(others)
    sizes = (largest, largest if kept is None else kept.size)
    return {"common": common, "smaller": min(sizes), "larger": max(sizes)}


def encode_evidence(
    suspects: Sequence[Suspect], policy: LogPolicy, nodes: Sequence[Mapping[str, Any]] = ()
) -> bytes:
    """Return the evidence as a file for auditors and witnesses, with the rule by which the notes are called witnessed.

    `nodes` is what there is against nodes (`accusations.exported`).
    """
    return _encoded(
        {
            "format": EVIDENCE,
            "policy": PolicyFile.of(policy).encode(),
            "items": [
                {
                    "origin": item.origin,
                    "reason": item.reason,
                    "seen": to_rfc3339(item.seen),
                    "proved_by": proved_by(item),
                    "accepted": item.kept,
                    "shown": item.note,
                    "nodes": dict(item.nodes),
                }
                for item in suspects
            ],
            "nodes": list(nodes),
        }
    )


def facts(item: Suspect) -> dict[str, Any]:
    """Return what people and programs are told about one piece of evidence."""
    accepted = None if item.kept is None else _checkpoint(item.kept)
    return {
        "against": "the log",
        "origin": item.origin,
        "size": item.size,
        "root": item.root,
        "accepted_size": None if accepted is None else accepted.size,
        "accepted_root": None if accepted is None else accepted.root,
        "proved_by": proved_by(item),
        "reason": item.reason,
        "seen": to_rfc3339(item.seen),
    }


def proved_by(item: Suspect) -> str:
    """Say what proves to a stranger that the log showed two histories; `nothing` where the reason is this client's word."""
    if item.kept is None:
        return "nothing"
    accepted = _checkpoint(item.kept)
    if accepted.size == item.size and accepted.root != item.root:
        return "the two notes: two roots of one size"
    return "the two notes and the nodes" if item.nodes else "nothing"


def _checkpoint(note: str) -> Checkpoint:
    return parse_checkpoint(parse_note(note).text)


def _encoded(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"


def _malformed(path: Path) -> CounterfoilError:
    return CounterfoilError(
        Code.MALFORMED,
        f"{path} is not a view of a log",
        remedy="`counterfoil client view --to FILE` writes one.",
    )
