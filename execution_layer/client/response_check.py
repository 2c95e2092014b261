"""The checks that a response must pass before it is believed: the steps of protocol §4.3, numbered as there. Pure.
`StreamReader` is step 1, frame by frame as they arrive; `check_response` is the rest. The command
`counterfoil verify` runs the same code over the archive.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature

from execution_layer.client.chain_check import SentPart, check_asked, check_chain
from execution_layer.client.claims import LIE, agree, check_times, require
from shared.envelope.blinded import activation_root, token_bytes
from shared.envelope.body import settings_bytes
from shared.envelope.evidence import Evidence, open_evidence
from shared.envelope.sealing import OpenedRequest
from shared.envelope.stream import (
    FinalRecord,
    Frame,
    FrameOpener,
    StreamContext,
    final_signature_message,
    stream_signature_message,
)
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_key
from shared.statements.cancellations import verify_cancellation
from shared.statements.cose import open_as
from shared.statements.keys import KeyBundle
from shared.statements.logprobs import TokenLogprobs
from shared.statements.orders import Order
from shared.statements.receipts import Finish, Receipt
from shared.verification.receipt_claims import implausible, unfounded_end

LONGEST_TOKEN: Final = 1024
"""UTF-8 bytes that one token can add to the text; no tokenizer in use comes close."""
Tokenise = Callable[[], Sequence[int]]


class Said(Protocol):
    """Checks frames' texts against their tokens (`shared.text.stream.SaidText`)."""

    def take(self, tokens: Sequence[int], text: str) -> bool:
        """Take the next frame; False if its text does not match its tokens."""

    def whole(self) -> bool:
        """Return whether all text has been delivered."""


@dataclass(frozen=True, slots=True, repr=False)
class Sent:
    """What the client sent, and to whom."""

    order: Order
    order_entry: bytes
    opened: OpenedRequest
    """The request as the client sealed it: header, keys, body."""
    bundle: KeyBundle
    bundle_entry: bytes
    tenant_key: bytes
    """The client's own public key (32 bytes), which signed the order."""
    parts: tuple[SentPart, ...] | None = ()
    """What was ordered from the stages of a chain, in order; None for whoever is shown the answer without that."""

    def context(self, node_nonce: bytes) -> StreamContext:
        """Return the context to which the response is bound."""
        return StreamContext(
            self.order.ctx, self.order.kc, self.bundle_entry, node_nonce, self.order.attempt
        )

    @property
    def seed(self) -> bytes:
        """The effective sampling seed."""
        return self.opened.body.seed or self.opened.keys.sampling_seed


class StreamReader:
    """Step 1: opens and verifies frames in order. UNREADABLE, BAD_SIGNATURE or MALFORMED ends it.

    What it accepts is bounded by the request: its token budget, one frame per token plus one, and the text that
    the tokens can have. So a node that never ends costs a client one frame too many. If the client has the tokenizer,
    `said` checks every frame before its text is passed on; COMMITMENT_MISMATCH if a frame's text does not match.
    """

    def __init__(
        self, sent: Sent, node_nonce: bytes, signature: bytes, said: Said | None = None
    ) -> None:
        if len(node_nonce) != 32:
            raise CounterfoilError(Code.MALFORMED, "the node's nonce is not 32 bytes long")
        self.context = sent.context(node_nonce)
        self._node = public_key(sent.bundle.signing_key)
        self._opener = FrameOpener(sent.opened.keys, self.context, sent.opened.shape)
        self._verify(0, self._opener.h0, signature)
        self._alternatives = sent.opened.body.settings.logprobs
        self._budget = sent.opened.body.settings.max_tokens
        self._delivered = len(sent.opened.body.prefix)
        self._text_bytes = 0
        self.said = said
        self.tokens: list[int] = []
        self.text = ""
        self.logprobs: list[TokenLogprobs] = []

    @property
    def h(self) -> bytes:
        """Running hash over the frames so far."""
        return self._opener.h

    def frame(self, index: int, ciphertext: bytes, signature: bytes) -> Frame:
        """Take the next frame."""
        if index != self._opener.frames + 1:
            raise CounterfoilError(
                Code.MALFORMED, f"frame {index} came instead of frame {self._opener.frames + 1}"
            )
        frame = self._opener.open(ciphertext)
        self._verify(index, self._opener.h, signature)
        if not frame.answers(self._alternatives):
            raise CounterfoilError(
                Code.MALFORMED, f"frame {index} does not have the requested log-probabilities"
            )
        self._bound(index, frame)
        if self.said is not None and not self.said.take(frame.tokens, frame.text):
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH,
                f"frame {index} has a text that does not match its tokens",
                remedy=LIE,
            )
        self.tokens.extend(frame.tokens)
        self.text += frame.text
        self.logprobs.extend(frame.logprobs or ())
        return frame

    def _bound(self, index: int, frame: Frame) -> None:
        """Check that the answer, including this frame, is within the request's bounds."""
        tokens = len(self.tokens) + len(frame.tokens)
        size = self._text_bytes + len(frame.text.encode("utf-8"))
        problem = None
        most = self._opener.shape.most_frames(self._budget)
        empty = not frame.tokens and not frame.text
        if empty and self._opener.shape.slots is None:
            problem = f"frame {index} is empty"
        elif tokens > self._budget:
            problem = f"the frames hold {tokens} tokens; at most {self._budget} were requested"
        elif index > most:
            problem = f"more than {most} frames came for {self._budget} tokens"
        elif size > LONGEST_TOKEN * (self._delivered + tokens):
            problem = f"the frames hold more text than {tokens} tokens can have"
        if problem is not None:
            raise CounterfoilError(Code.MALFORMED, problem)
        self._text_bytes = size

    def final(self, ciphertext: bytes, signature: bytes) -> FinalRecord:
        """Open and verify the final record; nothing may follow it."""
        message = final_signature_message(self.context, self._opener.h_final, ciphertext)
        record = self._opener.open_final(ciphertext)
        self._check(message, signature, "the final record")
        return record

    def _verify(self, index: int, h: bytes, signature: bytes) -> None:
        self._check(stream_signature_message(self.context, index, h), signature, f"h_{index}")

    def _check(self, message: bytes, signature: bytes, what: str) -> None:
        try:
            self._node.verify(signature, message)
        except InvalidSignature as error:
            raise CounterfoilError(
                Code.BAD_SIGNATURE, f"the node's signature over {what} does not verify"
            ) from error


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """A complete opened response, before its receipt is checked."""

    sent: Sent
    context: StreamContext
    h_final: bytes
    tokens: tuple[int, ...]
    """The frames' tokens in order."""
    text: str
    final: FinalRecord
    logprobs: tuple[TokenLogprobs, ...]
    """One per token if requested; only in the frames, so covered by `h_final`."""
    text_is_whole: bool | None = None
    """Whether the text is complete for its tokens; None if the client has no tokenizer and takes the node's word."""

    @classmethod
    def of(cls, sent: Sent, reader: StreamReader, final: FinalRecord) -> "Response":
        """Build it from what a reader has read."""
        return cls(
            sent,
            reader.context,
            reader.h,
            tuple(reader.tokens),
            reader.text,
            final,
            tuple(reader.logprobs),
            None if reader.said is None else reader.said.whole(),
        )


STEPS: Final = (
    "the receipt is a valid statement signed with the key bundle's signing key",
    "order, key bundle, ctx, kc, envelope, attempt and number are those of the request",
    "node nonce and h_final are those of the stream",
    "the tokens are the frames' tokens in order",
    "settings, input, output and evidence are reproduced",
    "usage and finish agree with what was received",
    "the times are plausible",
    "if stages of a chain were ordered, each signed its part and received what the one before sent; otherwise none did",
)
"""Steps 2 to 9 of protocol §4.3, for people."""


def run_steps(
    response: Response, now_ms: int, tokenise: Tokenise | None = None
) -> Generator[None, None, tuple[Receipt, bytes]]:
    """Run steps 2 to 9, yielding after each that holds and raising at one that does not. Returns (receipt, entry)."""
    receipt, entry = _check_statement(response)  # (2)
    yield
    _check_names(response, receipt)  # (3)
    yield
    _check_stream(response, receipt)  # (4)
    yield
    _check_tokens(response)  # (5)
    yield
    evidence = _check_commitments(response, receipt, tokenise)  # (6)
    yield
    _check_usage(response, receipt, evidence)  # (7)
    _check_end(response, receipt)
    yield
    check_times(response.sent.order, receipt, now_ms)  # (8)
    _check_claims(response, receipt)
    yield
    _check_parts(response, receipt, now_ms)  # (9)
    yield
    return receipt, entry


def check_response(
    response: Response, now_ms: int, tokenise: Tokenise | None = None
) -> tuple[Receipt, bytes]:
    """Run steps 2 to 9 and return (receipt, entry). `tokenise` gives the prompt's tokens if the client has a tokenizer."""
    steps = run_steps(response, now_ms, tokenise)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            checked: tuple[Receipt, bytes] = end.value
            return checked


def _check_statement(response: Response) -> tuple[Receipt, bytes]:
    """Check (2): a valid statement signed with this key bundle's signing key."""
    receipt, statement = open_as(Receipt, response.final.receipt, response.sent.bundle.signing_key)
    agree("issuer", statement.issuer, response.sent.bundle.issuer)
    return receipt, statement.entry


def _check_names(response: Response, receipt: Receipt) -> None:
    """Check (3): order, key bundle, ctx, kc, envelope, attempt and number are ours, as are the agreed terms."""
    order, sent = response.sent.order, response.sent
    agree("order", receipt.order, sent.order_entry)
    agree("bundle", receipt.bundle, sent.bundle_entry)
    agree("ctx", receipt.ctx, order.ctx)
    agree("kc", receipt.kc, order.kc)
    agree("envelope", receipt.envelope, order.envelope)
    agree("attempt", receipt.attempt, order.attempt)
    agree("number", receipt.number, order.number)
    agree("tenant", receipt.tenant, order.tenant)
    agree("rate_card", receipt.rate_card, order.rate_card)
    agree("model_root", receipt.model_root, sent.opened.header.model_root)
    agree("numeric_profile", receipt.numeric_profile, sent.bundle.numeric_profile)


def _check_stream(response: Response, receipt: Receipt) -> None:
    """Check (4): node nonce and h_final are those of the stream."""
    agree("node_nonce", receipt.node_nonce, response.context.node_nonce)
    agree("h_final", receipt.h_final, response.h_final)


def _check_tokens(response: Response) -> None:
    """Check (5): the final record's tokens and text are those of the frames, and the text is complete."""
    agree("tokens", response.final.tokens, response.tokens)
    agree("text", response.final.text, response.text)
    if response.final.finish in {Finish.STOP, Finish.LENGTH}:
        require(
            response.text_is_whole is not False, "text", "is not the complete text of its tokens"
        )


def _check_commitments(
    response: Response, receipt: Receipt, tokenise: Tokenise | None
) -> Evidence | None:
    """Check (6): the blinded fields follow from settings, tokens and the sealed evidence."""
    keys, body = response.sent.opened.keys, response.sent.opened.body
    settings = settings_bytes(body, response.sent.seed)
    agree("settings", receipt.settings, keys.blind("settings", settings))
    agree("output", receipt.output, keys.blind("output", token_bytes(response.tokens)))
    if tokenise is not None:
        agree("input", receipt.input, keys.blind("input", token_bytes(tokenise())))
    sealed = response.final.evidence
    agree("evidence", receipt.evidence, None if sealed is None else sha256(sealed).digest())
    if sealed is None:
        require(receipt.finish is Finish.FAILED, "evidence", "is missing")
        agree("activation_root", receipt.activation_root, None)
        return None
    evidence = open_evidence(sealed, keys, response.context)
    agree("evidence.output_tokens", evidence.output_tokens, response.tokens)
    agree("evidence.text", evidence.text, response.text)
    agree("input", receipt.input, keys.blind("input", token_bytes(evidence.input_tokens)))
    root = activation_root(keys, evidence.prompt_blocks, evidence.output_blocks)
    agree("activation_root", receipt.activation_root, root)
    return evidence


def _check_usage(response: Response, receipt: Receipt, evidence: Evidence | None) -> None:
    """Check (7): the charge is for what was received, and the finish is consistent with max_tokens."""
    usage, budget = receipt.usage, response.sent.opened.body.settings.max_tokens
    agree("usage", usage, response.final.usage)
    agree("finish", receipt.finish, response.final.finish)
    agree("usage.output", usage.output, len(response.tokens))
    if evidence is not None:
        agree("usage.input", usage.input, len(evidence.input_tokens))
    require(usage.input >= 1, "usage.input", "is zero")
    require(usage.cached < usage.input, "usage.cached", "counts the whole prompt as cached")
    require(usage.output <= budget, "usage.output", f"is above max_tokens ({budget})")
    if receipt.finish is Finish.LENGTH:
        require(usage.output == budget, "finish", "says length before max_tokens was reached")
    if receipt.finish is Finish.STOP:
        require(usage.output >= 1, "finish", "says stop before there was a token")


def _check_end(response: Response, receipt: Receipt) -> None:
    """Check (7): an answer that its rules did not end was ended by our signature or our deadline."""
    if receipt.cancel is not None:
        try:
            verify_cancellation(receipt.order, receipt.cancel, response.sent.tenant_key)
        except CounterfoilError:
            require(False, "cancel", "is not our signature")
    unfounded = unfounded_end(response.sent.order, receipt)
    require(unfounded is None, "finish", f"is unfounded: {unfounded}")


def _check_claims(response: Response, receipt: Receipt) -> None:
    """Check (8): nothing is claimed that no machine can do."""
    impossible = implausible(response.sent.order, receipt)
    require(impossible is None, "claims", f"cannot be true: {impossible}")


def _check_parts(response: Response, receipt: Receipt, now_ms: int) -> None:
    """Check (9): what the stages of a chain signed; of stages whose orders are not at hand, only how many there are."""
    signed, parts = response.final.stages, response.sent.parts
    if parts is None:
        check_asked(receipt, signed, len(response.sent.opened.header.stages or ()))
    else:
        check_chain(receipt, signed, parts, now_ms)
