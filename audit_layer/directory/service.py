"""Which key bundles a client may choose from: those in the log that have not expired, and whether they were revoked."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from audit_layer.log.proof_service import ProofService
from audit_layer.trail.pages import Span
from audit_layer.trail.service import Trail
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.keys import KeyBundle
from shared.statements.ratecards import RateCard

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class ListedBundle:
    """A key bundle as clients receive it. They check signature, proof and revocation themselves."""

    entry: bytes
    statement: bytes
    bundle: KeyBundle
    tlog_proof: str | None
    """Absent until a witnessed checkpoint covers it."""
    revoked: bool


@dataclass(frozen=True, slots=True)
class _Known:
    entry: bytes
    statement: bytes
    bundle: KeyBundle


class Directory:
    """Caches unexpired key bundles, so that a listing reads only what is new in the log. Thread-safe."""

    def __init__(self, trail: Trail, proofs: ProofService) -> None:
        self._trail = trail
        self._proofs = proofs
        self._mutex = threading.Lock()
        self._after = -1
        self._known: dict[int, _Known] = {}

    def key_bundles(
        self, model_root: bytes | None = None, *, now: int | None = None
    ) -> list[ListedBundle]:
        """Return unexpired key bundles in log order, only those that serve `model_root` if one is given."""
        return self.listing(model_root, now=now)[0]

    def numeric_profiles(self) -> frozenset[bytes]:
        """Return the numeric profiles that this log's auditors compute."""
        return self._trail.numeric_profiles()

    def listing(
        self, model_root: bytes | None = None, *, now: int | None = None
    ) -> tuple[list[ListedBundle], list[tuple[bytes, str]]]:
        """Return what `key_bundles` does, and (statement, tlog-proof) of each revocation of one of them that is witnessed."""
        if model_root is not None and len(model_root) != 32:
            raise CounterfoilError(Code.INVALID_ARGUMENT, "a model root is 32 bytes long")
        moment = now_ms() if now is None else now
        wanted = [
            known
            for known in self._live(moment)
            if model_root is None or model_root in known.bundle.model_roots
        ]
        revoked = self._trail.revocations() if wanted else {}
        ended = {known.entry: revoked[known.entry] for known in wanted if known.entry in revoked}
        listed = [
            ListedBundle(
                known.entry,
                known.statement,
                known.bundle,
                self._proof(known.entry),
                known.entry in ended and ended[known.entry].at <= moment,
            )
            for known in wanted
        ]
        proofs = [(item.statement, self._proof(item.entry)) for item in ended.values()]
        return listed, [(statement, proof) for statement, proof in proofs if proof is not None]

    def identities(self, subjects: Iterable[str]) -> list[tuple[bytes, str]]:
        """Return (statement, tlog-proof) of what is witnessed about the keys of identities, each `operator/NAME` or
        `tenant/NAME`, in log order for each. Clients check signatures, chain and proofs themselves.
        """
        rows = [
            row
            for subject in subjects
            for row in self._trail.identity(*subject.partition("/")[::2])
        ]
        proofs = ((row.raw, self._proof(row.entry)) for row in rows)
        return [(raw, proof) for raw, proof in proofs if proof is not None]

    def rate_cards(self, entries: Iterable[bytes]) -> list[bytes]:
        """Return the rate cards among these entries that the log has, as signed; whatever else they name is left out."""
        found = (self._trail.statement(entry) for entry in entries)
        return [row.raw for row in found if row is not None and row.type == RateCard.TYPE]

    def _live(self, moment: int) -> list[_Known]:
        with self._mutex:
            while page := self._trail.statements(
                type=KeyBundle.TYPE, page=Span(self._after, _PAGE)
            ):
                for row in page:
                    bundle = read_as(KeyBundle, row.raw)
                    self._known[row.log_index] = _Known(row.entry, row.raw, bundle)
                self._after = page[-1].log_index
            self._known = {
                index: known
                for index, known in self._known.items()
                if moment < known.bundle.not_after
            }
            return list(self._known.values())

    def _proof(self, entry: bytes) -> str | None:
        try:
            return self._proofs.tlog_proof(entry)
        except CounterfoilError as error:
            if error.code is not Code.NOT_WITNESSED:
                raise
            return None
