"""What a party remembers of the log about others' identity keys: an end that it has seen once is never forgotten."""

import json
import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import write_private
from shared.statements.cose import parse_statement
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd, identity
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import verify_tlog_proof
from shared.verification.identities import KeyHistory, Logged, key_history

TYPES: Final = frozenset({IdentityKey.TYPE, IdentityKeyEnd.TYPE})

_log = logging.getLogger(__name__)


class IdentityBook:
    """Statements about identities' keys with their log indexes, in one file (JSON). One process writes it."""

    def __init__(self, path: Path, log: LogPolicy) -> None:
        self._path = path
        self._log = log
        self._known: dict[str, dict[int, bytes]] = _read(path)
        self._histories: dict[tuple[str, frozenset[bytes]], KeyHistory] = {}

    def learn(self, shown: Iterable[tuple[bytes, str]]) -> bool:
        """Keep the (statement, tlog-proof) pairs that the log proves under a witnessed checkpoint; return whether any is new.
        Any other is logged, and changes nothing. What is new is on disk when this returns.
        """
        found = False
        for raw, proof in shown:
            try:
                statement = parse_statement(raw)
                known = self._known.get(statement.subject, {})
                if raw in known.values() or statement.type not in TYPES:
                    continue
                index = verify_tlog_proof(proof, statement.entry, self._log).index
            except CounterfoilError as error:
                _log.warning("a statement about identity keys does not count: %s", error)
                continue
            self._known[statement.subject] = {**known, index: raw}
            found = True
        if found:
            self._histories.clear()
            write_private(self._path, _encoded(self._known))
        return found

    def history(self, role: Holder, name: str, pinned: Collection[bytes]) -> KeyHistory:
        """Return the keys of an identity whose beginning is pinned, as far as this book knows."""
        subject, beginning = identity(role, name), frozenset(pinned)
        if (subject, beginning) not in self._histories:
            logged = [Logged(at, raw) for at, raw in self._known.get(subject, {}).items()]
            self._histories[subject, beginning] = key_history(role, name, beginning, logged)
        return self._histories[subject, beginning]


def _encoded(known: dict[str, dict[int, bytes]]) -> bytes:
    shown = {
        subject: {str(index): raw.hex() for index, raw in sorted(at.items())}
        for subject, at in sorted(known.items())
    }
    return json.dumps(shown, indent=1).encode() + b"\n"


def _read(path: Path) -> dict[str, dict[int, bytes]]:
    try:
        shown = json.loads(path.read_bytes())
        return {
            subject: {int(index): bytes.fromhex(raw) for index, raw in at.items()}
            for subject, at in shown.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CounterfoilError(
            Code.CORRUPT,
            f"{path} does not hold what is known of identity keys",
            remedy="Remove it: it is read again from the audit server.",
        ) from error
