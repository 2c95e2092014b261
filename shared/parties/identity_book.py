"""What a party remembers of the log about others' identity keys: an end that it has seen once is never forgotten."""

import json
import logging
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import write_private
from shared.statements.cose import parse_statement
from shared.statements.identities import TYPES, Holder, identity
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import verify_tlog_proof
from shared.verification.identities import KeyHistory, Logged, key_history

_log = logging.getLogger(__name__)


class IdentityBook:
    """Statements about identities' keys with their log indexes and proofs, in one file (JSON).

    Safe for threads. Processes that share the file lose nothing that is proved anew from time to time.
    """

    def __init__(self, path: Path, log: LogPolicy) -> None:
        self._path = path
        self._log = log
        self._known = _read(path)
        self._histories: dict[tuple[str, frozenset[bytes]], KeyHistory] = {}
        self._learning = threading.Lock()

    def learn(
        self, shown: Iterable[tuple[bytes, str]], *, only: Collection[str] | None = None
    ) -> bool:
        """Keep the (statement, tlog-proof) pairs that the log proves under a witnessed checkpoint; return whether any is new.
        Any other is logged, and changes nothing, and so does one that is about none of `only` (`operator/NAME`, `tenant/NAME`).
        What is new is on disk when this returns.
        """
        with self._learning:
            found = [
                item for raw, proof in shown if (item := self._new(raw, proof, only)) is not None
            ]
            if found:
                self._known = _merged(_read(self._path), self._known, *found)
                self._histories = {}
                write_private(self._path, _encoded(self._known))
            return bool(found)

    def _new(self, raw: bytes, proof: str, only: Collection[str] | None) -> "_Known | None":
        """Return what a proved statement adds; None if it is known with a proof, or does not count."""
        try:
            statement = parse_statement(raw)
            known = self._known.get(statement.subject, {}).values()
            wanted = statement.type in TYPES and (only is None or statement.subject in only)
            if not wanted or any(raw == one and kept for one, kept in known):
                return None
            index = verify_tlog_proof(proof, statement.entry, self._log).index
        except CounterfoilError as error:
            _log.warning("a statement about identity keys does not count: %s", error)
            return None
        return {statement.subject: {index: (raw, proof)}}

    def shown(self, role: Holder, name: str) -> list[tuple[bytes, str]]:
        """Return (statement, tlog-proof) of what is known of an identity's keys, by log index, to show it to others."""
        known = self._known.get(identity(role, name), {})
        return [(raw, proof) for _, (raw, proof) in sorted(known.items()) if proof]

    def history(self, role: Holder, name: str, pinned: Collection[bytes]) -> KeyHistory:
        """Return the keys of an identity whose beginning is pinned, as far as this book knows."""
        subject, beginning = identity(role, name), frozenset(pinned)
        if (subject, beginning) not in self._histories:
            logged = [Logged(at, raw) for at, (raw, _) in self._known.get(subject, {}).items()]
            self._histories[subject, beginning] = key_history(role, name, beginning, logged)
        return self._histories[subject, beginning]


_Known = dict[str, dict[int, tuple[bytes, str]]]
"""(statement, tlog-proof) by subject and log index; the proof is empty in files from before it was kept."""


def _merged(*all_known: _Known) -> _Known:
    merged: _Known = {}
    for known in all_known:
        for subject, at in known.items():
            for index, (raw, proof) in at.items():
                kept = merged.setdefault(subject, {}).get(index, (raw, ""))
                merged[subject][index] = (raw, proof or kept[1])
    return merged


def _encoded(known: _Known) -> bytes:
    shown = {
        subject: {
            str(index): {"statement": raw.hex(), "tlog_proof": proof}
            for index, (raw, proof) in sorted(at.items())
        }
        for subject, at in sorted(known.items())
    }
    return json.dumps(shown, indent=1, ensure_ascii=False).encode() + b"\n"


def _read(path: Path) -> _Known:
    try:
        shown = json.loads(path.read_bytes())
        return {
            subject: {int(index): _kept(kept) for index, kept in at.items()}
            for subject, at in shown.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise CounterfoilError(
            Code.CORRUPT,
            f"{path} does not hold what is known of identity keys",
            remedy="Remove it: it is read again from the audit server.",
        ) from error


def _kept(kept: Any) -> tuple[bytes, str]:
    if isinstance(kept, str):
        return bytes.fromhex(kept), ""
    return bytes.fromhex(kept["statement"]), str(kept["tlog_proof"])
