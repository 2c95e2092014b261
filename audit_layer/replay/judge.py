"""The judge, exact regime: opens one disclosed request and replays it (protocol §6.3).

Pure but for the arithmetic that it is handed. The numbered steps are those of the protocol; the first that fails gives
the reason code. What the caller has checked before: the receipt's signature, that the ciphertexts hash to the receipt's
`envelope` and `h_final`, and that the shares recombined to a secret whose commitments hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from audit_layer.replay.case import Case, Judgement
from shared.codec import cbor
from shared.commitments.exact import Activations
from shared.envelope.blinded import BlindedFields, blinded_fields
from shared.envelope.evidence import Evidence, open_evidence
from shared.envelope.sealing import OpenedRequest, open_with_secret
from shared.envelope.stream import FinalRecord, FrameOpener, StreamContext
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.audits import Outcome
from shared.statements.cose import parse_statement
from shared.statements.logprobs import TokenLogprobs
from shared.statements.receipts import Finish, Receipt
from shared.statements.request import RequestBody, SamplingSettings


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one teacher-forced pass gave: block hashes, and the token the sampler chooses at every output position.

    `logprobs` has one entry for each of them where the settings ask for it, and is empty otherwise.
    """

    activations: Activations
    chosen: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


class Arithmetic(Protocol):
    """The auditor's own model. Deterministic; knows nothing of nodes, receipts or verdicts."""

    @property
    def profile(self) -> bytes:
        """Hash of the numeric profile (32 bytes)."""

    def tokenise(self, body: RequestBody) -> tuple[int, ...]:
        """Return the prompt's tokens: the tokenizer's own encoding under the chat template."""

    def replay(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        settings: SamplingSettings,
        seed: bytes,
        choice: int,
    ) -> Replayed:
        """Re-execute prompt and output in one pass."""

    def stops_at(self, output: Sequence[int], settings: SamplingSettings) -> int | None:
        """Return how many tokens of `output` there are up to and including the first stop, or None."""


class _Finding(Exception):  # noqa: N818  # a verdict is not an error; it ends the steps early
    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


def _fail_unless(condition: bool, reason: str) -> None:
    if not condition:
        raise _Finding(Outcome.FAIL, reason)


def judge(case: Case, arithmetic: Arithmetic) -> Judgement:
    """Return the verdict's content for one case. Never raises for anything that the case may hold."""
    facts: dict[str, int | str] = {}
    try:
        _steps(case, arithmetic, facts)
    except _Finding as finding:
        return Judgement(finding.outcome.value, finding.reason, facts)
    return Judgement(Outcome.PASS.value, "exact", facts)


def _steps(case: Case, arithmetic: Arithmetic, facts: dict[str, int | str]) -> None:
    receipt = Receipt.from_payload(parse_statement(case.receipt, expected=Receipt.TYPE).payload)
    if receipt.numeric_profile != arithmetic.profile:
        raise _Finding(Outcome.INCONCLUSIVE, "profile")
    opened = _open_request(case)  # steps 1 and 2
    body, seed = opened.body, opened.body.seed or opened.keys.sampling_seed
    prompt = _prompt(arithmetic, body)  # step 3
    final, answer = _open_stream(case, receipt, opened)  # step 4
    tokens = answer.tokens
    blinded = _check_evidence(receipt, opened, seed, prompt, tokens, final)  # step 5
    facts.update(prompt_tokens=len(prompt), output_tokens=len(tokens))
    _fail_unless(blinded.settings == receipt.settings, "settings")
    if tokens:
        _check_replay(arithmetic, receipt, opened, seed, prompt, answer, facts)  # steps 6 to 8
    _check_finish(arithmetic, receipt, body.settings, tokens)  # step 9
    _check_usage(receipt, len(prompt), len(tokens))


def _open_request(case: Case) -> OpenedRequest:
    try:
        return open_with_secret(case.envelope, case.secret)
    except CounterfoilError as error:
        raise _Finding(Outcome.INCONCLUSIVE, "escrow") from error


def _prompt(arithmetic: Arithmetic, body: RequestBody) -> tuple[int, ...]:
    try:
        return arithmetic.tokenise(body)
    except CounterfoilError as error:
        raise _Finding(Outcome.FAIL, "input") from error


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the frames say, in order."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]


def _open_stream(
    case: Case, receipt: Receipt, opened: OpenedRequest
) -> tuple[FinalRecord | None, _Answer]:
    """Open frames and final record; a node that was cut off has no final record."""
    opener = FrameOpener(opened.keys, _context(receipt, opened))
    try:
        frames = [opener.open(ciphertext) for ciphertext in case.frames]
    except CounterfoilError as error:
        raise _Finding(Outcome.FAIL, "stream") from error
    _fail_unless(opener.h_final == receipt.h_final, "stream")
    answer = _Answer(
        tuple(token for frame in frames for token in frame.tokens),
        tuple(told for frame in frames for told in frame.logprobs or ()),
    )
    if not case.final_record:
        return None, answer
    try:
        return opener.open_final(case.final_record), answer
    except CounterfoilError as error:
        # The final record is under no signature of its own: a spoiled one was not delivered.
        raise _Finding(Outcome.INCONCLUSIVE, "withheld") from error


def _context(receipt: Receipt, opened: OpenedRequest) -> StreamContext:
    return StreamContext(
        ctx=opened.ctx,
        kc=opened.kc,
        bundle=receipt.bundle,
        node_nonce=receipt.node_nonce,
        attempt=receipt.attempt,
    )


def _check_evidence(
    receipt: Receipt,
    opened: OpenedRequest,
    seed: bytes,
    prompt: tuple[int, ...],
    tokens: tuple[int, ...],
    final: FinalRecord | None,
) -> BlindedFields:
    """Check that evidence and blinded fields speak of the same tokens and blocks."""
    evidence = _evidence(receipt, opened, final)
    if evidence is not None:
        _fail_unless(tuple(evidence.output_tokens) == tokens, "evidence")
        _fail_unless(tuple(evidence.input_tokens) == prompt, "input")
    blinded = blinded_fields(
        opened.keys,
        settings=opened.body.settings,
        seed=seed,
        choice=opened.body.choice,
        input_tokens=prompt,
        output_tokens=tokens,
        prompt_blocks=evidence.prompt_blocks if evidence else (),
        output_blocks=evidence.output_blocks if evidence else (),
    )
    _fail_unless(blinded.input == receipt.input, "input")
    _fail_unless(blinded.output == receipt.output, "evidence")
    if evidence is not None:
        _fail_unless(blinded.activation_root == receipt.activation_root, "evidence")
    return blinded


def _evidence(
    receipt: Receipt, opened: OpenedRequest, final: FinalRecord | None
) -> Evidence | None:
    """Return the opened evidence; only a receipt for a failed request may come without."""
    if receipt.evidence is None:
        _fail_unless(
            receipt.finish is Finish.FAILED and receipt.activation_root is None, "evidence"
        )
        return None
    if (
        final is None
        or final.evidence is None
        or sha256(final.evidence).digest() != receipt.evidence
    ):
        raise _Finding(Outcome.INCONCLUSIVE, "withheld")
    try:
        return open_evidence(
            final.evidence,
            opened.keys,
            StreamContext(
                opened.ctx, opened.kc, receipt.bundle, receipt.node_nonce, receipt.attempt
            ),
        )
    except CounterfoilError as error:
        raise _Finding(Outcome.FAIL, "evidence") from error


def _check_replay(
    arithmetic: Arithmetic,
    receipt: Receipt,
    opened: OpenedRequest,
    seed: bytes,
    prompt: tuple[int, ...],
    answer: _Answer,
    facts: dict[str, int | str],
) -> None:
    """Replay in one pass; the activation root of our own states must be the node's."""
    tokens, body = answer.tokens, opened.body
    try:
        replayed = arithmetic.replay(prompt, tokens, body.settings, seed, body.choice)
    except CounterfoilError as error:
        # Tokens outside the vocabulary, or more than the context holds, cannot come from this model.
        if error.code in {Code.INVALID_ARGUMENT, Code.MALFORMED}:
            raise _Finding(Outcome.FAIL, "tokens") from error
        raise
    ours = blinded_fields(
        opened.keys,
        settings=body.settings,
        seed=seed,
        choice=body.choice,
        input_tokens=prompt,
        output_tokens=tokens,
        prompt_blocks=replayed.activations.prompt_blocks,
        output_blocks=replayed.activations.output_blocks,
    )
    wrong = sum(a != b for a, b in zip(replayed.chosen, tokens, strict=True))
    facts.update(blocks=len(replayed.activations.leaves()), tokens_not_chosen=wrong)
    if receipt.activation_root is not None:
        _fail_unless(ours.activation_root == receipt.activation_root, "activations")
    _fail_unless(wrong == 0, "tokens")
    _fail_unless(replayed.logprobs == answer.logprobs, "logprobs")


def _check_finish(
    arithmetic: Arithmetic, receipt: Receipt, settings: SamplingSettings, tokens: tuple[int, ...]
) -> None:
    """Check that the sequence ended where its rules say, and that the receipt names the rule."""
    stop = arithmetic.stops_at(tokens, settings)
    _fail_unless(stop is None or stop == len(tokens), "finish")
    _fail_unless(len(tokens) <= settings.max_tokens, "finish")
    if receipt.finish is Finish.STOP:
        _fail_unless(stop is not None, "finish")
    elif receipt.finish is Finish.LENGTH:
        _fail_unless(stop is None and len(tokens) == settings.max_tokens, "finish")


def _check_usage(receipt: Receipt, prompt: int, output: int) -> None:
    usage = receipt.usage
    _fail_unless(usage.output == output, "usage")
    _fail_unless(usage.input == prompt, "usage")
    _fail_unless(usage.cached <= max(0, prompt - 1), "usage")


def fact_digest(judgement: Judgement) -> bytes:
    """Return the SHA-256 that a verdict carries as `evidence`."""
    return sha256(cbor.encode(judgement.to_bytes())).digest()
