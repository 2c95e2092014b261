"""Verification after the fact, offline: numbered steps over the archive, or over an exported receipt.

An exported receipt is a JSON file: statement, order, key bundle and tlog-proofs, binary parts in base64.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from execution_layer.client.archive import Archive, Transcript
from execution_layer.client.checks import STEPS, Response, Sent, StreamReader, run_steps
from execution_layer.client.policy import ClientPolicy
from shared.codec.moment import to_rfc3339
from shared.envelope.header import envelope_hash
from shared.envelope.sealing import open_with_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import load_ed25519, public_bytes
from shared.statements.cose import open_as
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.statements.receipts import Receipt
from shared.translog.tlog_proof import verify_tlog_proof

FORMAT: Final = "counterfoil-receipt/v1"
MAX_FILE: Final = 2**21
_BINARY: Final = ("receipt", "order", "bundle")
_TEXT: Final = ("bundle_proof", "tlog_proof")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a verification: what it says, whether it holds, and what was found."""

    number: int
    title: str
    holds: bool
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ReceiptFile:
    """An exported receipt."""

    receipt: bytes
    order: bytes
    bundle: bytes
    bundle_proof: str
    tlog_proof: str | None

    def to_json(self) -> str:
        """Return the file's text."""
        values: dict[str, str] = {"format": FORMAT}
        for name in _BINARY:
            values[name] = base64.b64encode(getattr(self, name)).decode("ascii")
        for name in _TEXT:
            if (text := getattr(self, name)) is not None:
                values[name] = text
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def parse(cls, data: bytes) -> "ReceiptFile":
        """Read the file's bytes; MALFORMED if they are none."""
        try:
            values = json.loads(data) if len(data) <= MAX_FILE else None
            if not isinstance(values, dict) or values.get("format") != FORMAT:
                raise CounterfoilError(Code.MALFORMED, f"the file is not of format {FORMAT}")
            binary = {name: base64.b64decode(values[name], validate=True) for name in _BINARY}
            texts = {name: values.get(name) for name in _TEXT}
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
            raise CounterfoilError(
                Code.MALFORMED,
                "the file is no exported receipt",
                remedy="Export one with `client archive show`.",
            ) from error
        if not isinstance(texts["bundle_proof"], str) or not isinstance(
            texts["tlog_proof"], str | None
        ):
            raise CounterfoilError(Code.MALFORMED, "a proof in the file is not text")
        return cls(**binary, bundle_proof=texts["bundle_proof"], tlog_proof=texts["tlog_proof"])


def export(archive: Archive, transcript: Transcript) -> ReceiptFile:
    """Return what a third party needs to check a receipt; nothing of it opens the request."""
    if transcript.receipt is None:
        raise CounterfoilError(Code.NOT_FOUND, "this attempt has no receipt that was believed")
    statement, proof = archive.bundle(transcript.bundle)
    return ReceiptFile(
        transcript.receipt, transcript.order_statement, statement, proof, transcript.proof
    )


class Verification:
    """Runs named checks in order; after the first that fails, nothing is claimed any more."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @property
    def holds(self) -> bool:
        """Whether every step so far holds."""
        return all(step.holds for step in self.steps)

    def step(self, title: str, check: Callable[[], Any]) -> Any:
        """Run one check and record it; its result, or None when it or an earlier one failed."""
        if not self.holds:
            return None
        number = len(self.steps) + 1
        try:
            result = check()
        except CounterfoilError as error:
            self.steps.append(Step(number, title, holds=False, detail=str(error)))
            return None
        detail = result if isinstance(result, str) else None
        self.steps.append(Step(number, title, holds=True, detail=detail))
        return result


def verify_file(file: ReceiptFile, policy: ClientPolicy) -> list[Step]:
    """Check an exported receipt with nothing but the policy's pins."""
    run = Verification()
    bundle = _bundle_steps(run, file.bundle, file.bundle_proof, policy)
    receipt = run.step(
        "the receipt is a valid statement of the bundle's signing key and names the bundle",
        lambda: _receipt_of(file.receipt, bundle[0], bundle[1]),
    )
    run.step("the order that it answers is shown", lambda: _order_of(file.order, receipt, policy))
    _proof_step(run, file.receipt, file.tlog_proof, policy)
    return run.steps


def verify_transcript(archive: Archive, transcript: Transcript, policy: ClientPolicy) -> list[Step]:
    """Check everything again that the archive holds of one attempt: stream, receipt and proof."""
    run = Verification()
    statement, proof = archive.bundle(transcript.bundle)
    bundle = _bundle_steps(run, statement, proof, policy)
    sent = run.step(
        "order and envelope are ours and belong together",
        lambda: _sent(transcript, bundle[0], bundle[1], policy),
    )
    response = run.step(
        "every frame opens in order under its AAD, and is signed",
        lambda: _response(transcript, sent),
    )
    if response is not None:
        checks = run_steps(response, transcript.finished or transcript.created)
        for title in STEPS:
            run.step(title, lambda: _advance(checks))
    _proof_step(run, transcript.receipt or b"", transcript.proof, policy)
    return run.steps


def _bundle_steps(
    run: Verification, statement: bytes, proof: str, policy: ClientPolicy
) -> tuple[KeyBundle, bytes]:
    found = run.step(
        "the key bundle is signed by an operator that the policy pins",
        lambda: _bundle_of(statement, policy),
    )
    run.step(
        "the key bundle is in the witnessed log",
        lambda: _included(proof, found[1], policy),
    )
    bundle: tuple[KeyBundle, bytes] = found
    return bundle


def _bundle_of(raw: bytes, policy: ClientPolicy) -> tuple[KeyBundle, bytes]:
    claimed, _ = open_as(KeyBundle, raw, None)
    key = policy.operator_key(claimed.operator)
    if key is None:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, f"the policy does not pin operator {claimed.operator}"
        )
    bundle, statement = open_as(KeyBundle, raw, key)
    return bundle, statement.entry


def _included(proof: str, entry: bytes, policy: ClientPolicy) -> str:
    found = verify_tlog_proof(proof, entry, policy.log.policy())
    times = ", ".join(
        f"{name} {to_rfc3339(1000 * seconds)}" for name, seconds in found.witnessed.times.items()
    )
    return f"index {found.index} of {found.checkpoint.size} in {found.checkpoint.origin}; {times}"


def _receipt_of(raw: bytes, bundle: KeyBundle, entry: bytes) -> Receipt:
    receipt, statement = open_as(Receipt, raw, bundle.signing_key)
    if receipt.bundle != entry or statement.issuer != bundle.issuer:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the receipt is of another key bundle")
    return receipt


def _order_of(raw: bytes, receipt: Receipt, policy: ClientPolicy) -> None:
    order, statement = open_as(Order, raw, None)
    if order.tenant == policy.tenant:
        open_as(Order, raw, public_bytes(load_ed25519(policy.tenant_key_file)))
    names = ("ctx", "kc", "envelope", "bundle", "tenant", "number", "attempt", "rate_card")
    if statement.entry != receipt.order or any(
        getattr(order, name) != getattr(receipt, name) for name in names
    ):
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the receipt answers another order")


def _sent(transcript: Transcript, bundle: KeyBundle, entry: bytes, policy: ClientPolicy) -> Sent:
    own = public_bytes(load_ed25519(policy.tenant_key_file))
    order, statement = open_as(Order, transcript.order_statement, own)
    opened = open_with_secret(transcript.envelope, transcript.secret)
    ours = (opened.ctx, opened.kc, envelope_hash(transcript.envelope), entry)
    if (order.ctx, order.kc, order.envelope, order.bundle) != ours:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the order is for another envelope")
    return Sent(order, statement.entry, opened, bundle, entry)


def _response(transcript: Transcript, sent: Sent) -> Response:
    if transcript.node_nonce is None or transcript.final_record is None:
        raise CounterfoilError(
            Code.NOT_FOUND, f"the archive has no whole response: the attempt is {transcript.state}"
        )
    reader = StreamReader(sent, transcript.node_nonce, transcript.accepted_signature or b"")
    for index, (ciphertext, signature) in enumerate(
        zip(transcript.frames, transcript.signatures, strict=True), start=1
    ):
        reader.frame(index, ciphertext, signature)
    return Response.of(sent, reader, reader.final(transcript.final_record))


def _advance(checks: Iterator[None]) -> None:
    next(checks)


def _proof_step(run: Verification, receipt: bytes, proof: str | None, policy: ClientPolicy) -> None:
    def check() -> str:
        if proof is None:
            raise CounterfoilError(
                Code.NOT_WITNESSED,
                "there is no proof for the receipt yet",
                remedy="Run `counterfoil client proofs`.",
            )
        _, statement = open_as(Receipt, receipt, None)
        return _included(proof, statement.entry, policy)

    run.step("the receipt is in the witnessed log", check)


def read_receipt_file(path: Path) -> ReceiptFile:
    """Read an exported receipt."""
    try:
        return ReceiptFile.parse(path.read_bytes())
    except OSError as error:
        raise CounterfoilError(
            Code.NOT_FOUND, f"{path} cannot be read: {error.strerror}"
        ) from error
