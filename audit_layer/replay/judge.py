"""The judge, exact regime: opens one disclosed request and replays it (protocol §6.3).

Pure except for the arithmetic passed in. The numbered steps are those of the protocol; the first that fails gives
the reason code. Before them, a numeric profile that is not the auditor's own is PROFILE. The caller has already
checked: the receipt's signature, that the ciphertexts hash to the receipt's `envelope` and `h_final`, that the final
record is under the node's signature, and that the shares recombine to a secret whose commitments hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from audit_layer.replay.case import Case, Judgement
from shared.commitments.exact import Activations
from shared.envelope.blinded import BlindedFields, blinded_fields
from shared.envelope.delivered import receipt_context
from shared.envelope.evidence import Evidence, open_evidence
from shared.envelope.sealing import OpenedRequest, open_with_secret
from shared.envelope.stream import FinalRecord, Frame, FrameOpener
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as
from shared.statements.logprobs import TokenLogprobs
from shared.statements.receipts import Finish, Receipt
from shared.statements.request import RequestBody, SamplingSettings
from shared.statements.verdicts import Reason


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of one teacher-forced pass: commitment blocks, and the token that the sampler chooses at every output position.

    `logprobs` has one entry per output position if the settings ask for it, and is empty otherwise.
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
        """Replay prompt and output in one pass."""

    def says(
        self,
        frames: Sequence[tuple[Sequence[int], str]],
        settings: SamplingSettings,
        *,
        ended: bool,
    ) -> bool:
        """Return whether the text of frames (tokens, text) is that of their tokens; all of it if the sequence `ended`."""

    def stops_at(self, output: Sequence[int], settings: SamplingSettings) -> int | None:
        """Return the number of tokens of `output` up to and including the first stop; None without one."""


class _Finding(Exception):  # noqa: N818  # a verdict is not an error; it ends the steps early
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def _fail_unless(condition: bool, reason: Reason) -> None:
    if not condition:
        raise _Finding(reason)


def judge(case: Case, arithmetic: Arithmetic) -> Judgement:
    """Return the verdict's content for one case, whatever the case holds.

    What it raises is the auditor's own: a receipt that is not one (the caller has verified it), or an arithmetic that fails.
    """
    facts: dict[str, int | str] = {}
    try:
        _steps(case, arithmetic, facts)
    except _Finding as finding:
        return Judgement(finding.reason, facts)
    return Judgement(Reason.EXACT, facts)


def _steps(case: Case, arithmetic: Arithmetic, facts: dict[str, int | str]) -> None:
    receipt = read_as(Receipt, case.receipt)
    if receipt.numeric_profile != arithmetic.profile:
        raise _Finding(Reason.PROFILE)
    opened = _open_request(case)  # steps 1 and 2
    body, seed = opened.body, opened.body.seed or opened.keys.sampling_seed
    prompt = _prompt(arithmetic, body)  # step 3
    final, answer = _open_stream(case, receipt, opened)  # step 4
    tokens = answer.tokens
    blinded = _check_evidence(receipt, opened, seed, prompt, tokens, final)  # step 5
    facts.update(prompt_tokens=len(prompt), output_tokens=len(tokens))
    _fail_unless(blinded.settings == receipt.settings, Reason.SETTINGS)
    if tokens:
        _check_replay(arithmetic, receipt, opened, seed, prompt, answer, facts)  # steps 6 to 8
    _check_text(arithmetic, receipt, body.settings, answer)  # step 9
    _check_finish(arithmetic, receipt, body.settings, tokens)  # step 10
    _check_usage(receipt, len(prompt), len(tokens))


def _open_request(case: Case) -> OpenedRequest:
    try:
        return open_with_secret(case.envelope, case.secret)
    except CounterfoilError as error:
        raise _Finding(Reason.ESCROW) from error


def _prompt(arithmetic: Arithmetic, body: RequestBody) -> tuple[int, ...]:
    try:
        return arithmetic.tokenise(body)
    except CounterfoilError as error:
        raise _Finding(Reason.INPUT) from error


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the frames hold, in order."""

    frames: tuple[Frame, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens."""
        return tuple(token for frame in self.frames for token in frame.tokens)

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(frame.text for frame in self.frames)

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """All log-probabilities."""
        return tuple(told for frame in self.frames for told in frame.logprobs or ())


def _open_stream(
    case: Case, receipt: Receipt, opened: OpenedRequest
) -> tuple[FinalRecord | None, _Answer]:
    """Open frames and final record; a node that was cut off has no final record."""
    opener = FrameOpener(opened.keys, receipt_context(receipt))
    try:
        frames = [opener.open(ciphertext) for ciphertext in case.frames]
    except CounterfoilError as error:
        raise _Finding(Reason.STREAM) from error
    _fail_unless(opener.h_final == receipt.h_final, Reason.STREAM)
    answer = _Answer(tuple(frames))
    if not case.final_record:
        return None, answer
    try:
        final = opener.open_final(case.final_record)
    except CounterfoilError as error:  # the node signed it
        raise _Finding(Reason.STREAM) from error
    _fail_unless(final.receipt == case.receipt, Reason.STREAM)
    _fail_unless(final.tokens == answer.tokens, Reason.STREAM)
    _fail_unless(final.text == answer.text, Reason.TEXT)
    _fail_unless(final.usage == receipt.usage, Reason.USAGE)
    _fail_unless(final.finish is receipt.finish, Reason.FINISH)
    return final, answer


def _check_evidence(
    receipt: Receipt,
    opened: OpenedRequest,
    seed: bytes,
    prompt: tuple[int, ...],
    tokens: tuple[int, ...],
    final: FinalRecord | None,
) -> BlindedFields:
    """Check that evidence and blinded fields are about the same tokens and commitment blocks."""
    evidence = _evidence(receipt, opened, final)
    if evidence is not None:
        assert final is not None
        _fail_unless(tuple(evidence.output_tokens) == tokens, Reason.EVIDENCE)
        _fail_unless(tuple(evidence.input_tokens) == prompt, Reason.INPUT)
        _fail_unless(evidence.text == final.text, Reason.TEXT)
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
    _fail_unless(blinded.input == receipt.input, Reason.INPUT)
    _fail_unless(blinded.output == receipt.output, Reason.EVIDENCE)
    if evidence is not None:
        _fail_unless(blinded.activation_root == receipt.activation_root, Reason.EVIDENCE)
    return blinded


def _evidence(
    receipt: Receipt, opened: OpenedRequest, final: FinalRecord | None
) -> Evidence | None:
    """Return the opened evidence; only a receipt for a failed request may lack it."""
    if receipt.evidence is None:
        _fail_unless(
            receipt.finish is Finish.FAILED and receipt.activation_root is None, Reason.EVIDENCE
        )
        return None
    if final is None:
        raise _Finding(Reason.WITHHELD)
    held = None if final.evidence is None else sha256(final.evidence).digest()
    _fail_unless(held == receipt.evidence, Reason.EVIDENCE)
    assert final.evidence is not None
    try:
        return open_evidence(final.evidence, opened.keys, receipt_context(receipt))
    except CounterfoilError as error:
        raise _Finding(Reason.EVIDENCE) from error


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
        # Tokens outside the vocabulary, or more of them than the context holds, cannot come from this model.
        if error.code in {Code.INVALID_ARGUMENT, Code.MALFORMED}:
            raise _Finding(Reason.TOKENS) from error
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
        _fail_unless(ours.activation_root == receipt.activation_root, Reason.ACTIVATIONS)
    _fail_unless(wrong == 0, Reason.TOKENS)
    _fail_unless(replayed.logprobs == answer.logprobs, Reason.LOGPROBS)


def _check_text(
    arithmetic: Arithmetic, receipt: Receipt, settings: SamplingSettings, answer: _Answer
) -> None:
    """Check that every frame's text is that of its tokens: the client was shown it as it arrived."""
    ended = receipt.finish in {Finish.STOP, Finish.LENGTH}
    frames = [(frame.tokens, frame.text) for frame in answer.frames]
    _fail_unless(arithmetic.says(frames, settings, ended=ended), Reason.TEXT)


def _check_finish(
    arithmetic: Arithmetic, receipt: Receipt, settings: SamplingSettings, tokens: tuple[int, ...]
) -> None:
    """Check that the sequence ended where its rules require, and that the receipt names the rule."""
    stop = arithmetic.stops_at(tokens, settings)
    _fail_unless(stop is None or stop == len(tokens), Reason.FINISH)
    _fail_unless(len(tokens) <= settings.max_tokens, Reason.FINISH)
    if receipt.finish is Finish.STOP:
        _fail_unless(stop is not None, Reason.FINISH)
    elif receipt.finish is Finish.LENGTH:
        _fail_unless(stop is None and len(tokens) == settings.max_tokens, Reason.FINISH)


def _check_usage(receipt: Receipt, prompt: int, output: int) -> None:
    usage = receipt.usage
    _fail_unless(usage.output == output, Reason.USAGE)
    _fail_unless(usage.input == prompt, Reason.USAGE)
    _fail_unless(usage.cached <= max(0, prompt - 1), Reason.USAGE)


def fact_digest(judgement: Judgement) -> bytes:
    """Return the SHA-256 that a verdict carries as `evidence` (protocol §6.3)."""
    return sha256(judgement.to_bytes()).digest()
