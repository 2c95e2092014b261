"""A whole log with its witnesses, for tests: real parts, fixed keys, one folder."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from audit_layer.log.files import PublishedFiles
from audit_layer.log.folder_store import FolderStore
from audit_layer.log.fsck import fsck
from audit_layer.log.fsck_report import Difference
from audit_layer.log.proof_service import ProofService
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.sequencer import Sequencer, Submission
from audit_layer.log.sign_and_publish import Publisher
from audit_layer.log.store import Store
from audit_layer.log.witnesses import WitnessHoldsError
from audit_layer.witness.core import Witness
from audit_layer.witness.store import WitnessStore
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.notes import SignatureLine, SignatureType, Signer
from shared.translog.policy import LogPolicy
from shared.translog.witness_protocol import AddCheckpoint, parse_cosignatures, parse_size

ORIGIN = "log.example/test"
LOG_SIGNERS = (
    Signer(ORIGIN, SignatureType.ED25519, b"\x01" * 32),
    Signer(ORIGIN, SignatureType.COSIGNATURE_MLDSA44, b"\x02" * 32),
)
LOG_KEYS = tuple(signer.verifier for signer in LOG_SIGNERS)


def witness_signers(name: str) -> tuple[Signer, ...]:
    seed = sha256(name.encode()).digest()
    return (
        Signer(name, SignatureType.COSIGNATURE_ED25519, seed),
        Signer(name, SignatureType.COSIGNATURE_MLDSA44, sha256(seed).digest()),
    )


def policy_of(names: Sequence[str], threshold: int) -> LogPolicy:
    keys = tuple(signer.verifier for name in names for signer in witness_signers(name))
    return LogPolicy(LOG_KEYS, keys, threshold)


def entry(name: object) -> bytes:
    return sha256(repr(name).encode()).digest()


NODE = entry("node")


def numbered(number: int, issuer: bytes = NODE) -> Submission:
    return Submission(entry((issuer, number)), issuer, number)


class LocalWitness:
    """A real witness, reached by a function call instead of HTTPS. `down` makes it not answer."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.store = WitnessStore(folder / f"{name}.db")
        self.witness = Witness(self.store, witness_signers(name), {ORIGIN: LOG_KEYS})
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise CounterfoilError(Code.UNAVAILABLE, "down")

    async def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: str
    ) -> tuple[SignatureLine, ...]:
        self._check()
        request = AddCheckpoint(old_size, tuple(proof), note).encode()
        answer = await asyncio.to_thread(self.witness.add_checkpoint, request)
        if answer.status == 409:
            raise WitnessHoldsError(parse_size(answer.body))
        if answer.status != 200:
            raise CounterfoilError(Code.CONFLICT, f"{answer.status}: {answer.body.decode()}")
        return parse_cosignatures(answer.body)

    async def latest(self, origin: str) -> str | None:
        self._check()
        held = self.witness.latest(origin)
        return held.note if held else None


@dataclass
class World:
    """Everything about one log. A new `publisher()` is a new process as far as its state goes."""

    engine: Engine
    folder: Path
    witnesses: list[LocalWitness]
    policy: LogPolicy
    files: PublishedFiles
    second_place: SecondPlace

    def publisher(self, **options: Any) -> Publisher:
        return Publisher(
            self.engine,
            signers=LOG_SIGNERS,
            policy=self.policy,
            witnesses=self.witnesses,
            files=self.files,
            second_place=self.second_place,
            **options,
        )

    def append(self, first: int, end: int) -> None:
        results = Sequencer(self.engine).append([numbered(i) for i in range(first, end)])
        assert not [result for result in results if isinstance(result, CounterfoilError)]

    def proofs(self) -> ProofService:
        return ProofService(self.engine, self.files, self.policy)

    def fsck(self) -> list[Difference]:
        return fsck(
            self.engine, policy=self.policy, files=self.files, second_place=self.second_place
        )

    def sizes(self) -> list[int]:
        with self.engine.connect() as connection:
            return list(
                connection.execute(text("SELECT size FROM log_checkpoints ORDER BY size")).scalars()
            )

    def close(self) -> None:
        for witness in self.witnesses:
            witness.store.close()


def make_world(
    engine: Engine,
    folder: Path,
    *,
    names: Sequence[str],
    threshold: int,
    store: Store | None = None,
) -> World:
    return World(
        engine,
        folder,
        [LocalWitness(name, folder) for name in names],
        policy_of(names, threshold),
        PublishedFiles(store or FolderStore(folder / "public")),
        SecondPlace(folder / "second" / "signed.note", LOG_KEYS),
    )
