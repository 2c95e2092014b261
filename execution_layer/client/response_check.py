"""What a response must pass before it is believed: the steps of protocol §4.3, numbered as there. Pure.

`StreamReader` is step 1, frame by frame while they arrive; `check_final` is the rest. `verify` of the
command line runs the same code over the archive.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature

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
from shared.runtime.clocks import shown, span
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_key
from shared.statements.cose import open_as
from shared.statements.keys import KeyBundle
from shared.statements.logprobs import TokenLogprobs
from shared.statements.orders import Order
from shared.statements.receipts import Finish, Receipt

SKEW_MS: Final = 300_000
"""How far a node's clock may be from ours."""
LONGEST_TOKEN: Final = 1024
"""Bytes of UTF-8 that one token can add to the text; no tokenizer in use comes near."""
Tokenise = Callable[[], Sequence[int]]
LIE: Final = "The node's answer is not to be believed; the archive keeps it as evidence."


class Said(Protocol):
    """Holds what frames say against their tokens (`shared.text.stream.SaidText`)."""

    def take(self, tokens: Sequence[int], text: str) -> bool:
        """Take the next frame; False when it does not say what its tokens say."""

    def whole(self) -> bool:
        """Tell whether nothing is left to be said."""


@dataclass(frozen=True, slots=True, repr=False)
class Sent:
    """What the client sent, and to whom."""

    order: Order
    order_entry: bytes
    opened: OpenedRequest
    """The request as the client sealed it: header, keys, body."""
    bundle: KeyBundle
    bundle_entry: bytes

    def context(self, node_nonce: bytes) -> StreamContext:
        """Return what the response is bound to."""
        return StreamContext(
            self.order.ctx, self.order.kc, self.bundle_entry, node_nonce, self.order.attempt
        )

    @property
    def seed(self) -> bytes:
        """The sampling seed in force."""
        return self.opened.body.seed or self.opened.keys.sampling_seed


class StreamReader:
    """Step 1: opens and verifies frames in order. UNREADABLE, BAD_SIGNATURE or MALFORMED ends it.

    What it takes is bounded by what was asked for: so many tokens, a frame for each and one more, and the text that
    these can say. So a node that never ends costs a client one frame too many. Where the client has the tokenizer,
    `said` reads every frame before its text is handed out; COMMITMENT_MISMATCH when a frame says something else.
    """

    def __init__(
        self, sent: Sent, node_nonce: bytes, signature: bytes, said: Said | None = None
    ) -> None:
        if len(node_nonce) != 32:
            raise CounterfoilError(Code.MALFORMED, "the node's nonce has not 32 bytes")
        self.context = sent.context(node_nonce)
        self._node = public_key(sent.bundle.signing_key)
        self._opener = FrameOpener(sent.opened.keys, self.context)
        self._verify(0, self._opener.h0, signature)
        self._alternatives = sent.opened.body.settings.logprobs
        self._budget = sent.opened.body.settings.max_tokens
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
                Code.MALFORMED, f"frame {index} came where {self._opener.frames + 1} was due"
            )
        frame = self._opener.open(ciphertext)
        self._verify(index, self._opener.h, signature)
        if not frame.answers(self._alternatives):
            raise CounterfoilError(
                Code.MALFORMED, f"frame {index} has not the log-probabilities that were asked for"
            )
        self._bound(index, frame)
        if self.said is not None and not self.said.take(frame.tokens, frame.text):
            raise CounterfoilError(
                Code.COMMITMENT_MISMATCH,
                f"frame {index} says another text than its tokens",
                remedy=LIE,
            )
        self.tokens.extend(frame.tokens)
        self.text += frame.text
        self.logprobs.extend(frame.logprobs or ())
        return frame

    def _bound(self, index: int, frame: Frame) -> None:
        """Check that the answer, with this frame, is within what was asked for."""
        tokens = len(self.tokens) + len(frame.tokens)
        size = self._text_bytes + len(frame.text.encode("utf-8"))
        problem = None
        if not frame.tokens and not frame.text:
            problem = f"frame {index} holds nothing"
        elif tokens > self._budget:
            problem = f"the frames hold {tokens} tokens; {self._budget} were asked for"
        elif index > self._budget + 1:
            problem = f"more than {self._budget + 1} frames came for {self._budget} tokens"
        elif size > LONGEST_TOKEN * tokens:
            problem = f"the frames hold more text than {tokens} tokens can say"
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
    """A whole response as it was opened, before its receipt is believed."""

    sent: Sent
    context: StreamContext
    h_final: bytes
    tokens: tuple[int, ...]
    """The frames' tokens in order."""
    text: str
    final: FinalRecord
    logprobs: tuple[TokenLogprobs, ...]
    """One for each token where they were asked for; in the frames alone, so under `h_final`."""
    text_is_whole: bool | None = None
    """Whether the text is all that the tokens say; None where the client has no tokenizer and takes the node's word."""

    @classmethod
    def of(cls, sent: Sent, reader: StreamReader, final: FinalRecord) -> "Response":
        """Collect what a reader has read."""
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
    "the receipt is a valid statement of the bundle's signing key",
    "order, bundle, ctx, kc, envelope, attempt and number are its own",
    "node nonce and h_final are those of the stream",
    "the tokens are the frames' tokens in order",
    "settings, input, output and evidence recompute",
    "usage and finish agree with what was received",
    "the times are sane",
)
"""Steps 2 to 8 of protocol §4.3, for people."""


def run_steps(
    response: Response, now_ms: int, tokenise: Tokenise | None = None
) -> Generator[None, None, tuple[Receipt, bytes]]:
    """Run steps 2 to 8, yielding after each that holds; the one that does not raises. Returns (receipt, entry)."""
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
    yield
    _check_times(response, receipt, now_ms)  # (8)
    yield
    return receipt, entry


def check_response(
    response: Response, now_ms: int, tokenise: Tokenise | None = None
) -> tuple[Receipt, bytes]:
    """Run steps 2 to 8 and return (receipt, entry). `tokenise` gives the prompt's tokens where the client can."""
    steps = run_steps(response, now_ms, tokenise)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            checked: tuple[Receipt, bytes] = end.value
            return checked


def _check_statement(response: Response) -> tuple[Receipt, bytes]:
    """Check (2): a valid statement of this bundle's signing key."""
    receipt, statement = open_as(Receipt, response.final.receipt, response.sent.bundle.signing_key)
    _agree("issuer", statement.issuer, response.sent.bundle.issuer)
    return receipt, statement.entry


def _check_names(response: Response, receipt: Receipt) -> None:
    """Check (3): order, bundle, ctx, kc, envelope, attempt and number are ours; so is what was agreed."""
    order, sent = response.sent.order, response.sent
    _agree("order", receipt.order, sent.order_entry)
    _agree("bundle", receipt.bundle, sent.bundle_entry)
    _agree("ctx", receipt.ctx, order.ctx)
    _agree("kc", receipt.kc, order.kc)
    _agree("envelope", receipt.envelope, order.envelope)
    _agree("attempt", receipt.attempt, order.attempt)
    _agree("number", receipt.number, order.number)
    _agree("tenant", receipt.tenant, order.tenant)
    _agree("rate_card", receipt.rate_card, order.rate_card)
    _agree("model_root", receipt.model_root, sent.opened.header.model_root)
    _agree("numeric_profile", receipt.numeric_profile, sent.bundle.numeric_profile)


def _check_stream(response: Response, receipt: Receipt) -> None:
    """Check (4): node nonce and h_final are those of the stream."""
    _agree("node_nonce", receipt.node_nonce, response.context.node_nonce)
    _agree("h_final", receipt.h_final, response.h_final)


def _check_tokens(response: Response) -> None:
    """Check (5): the final record's tokens and text are the frames', and say all that there is to say."""
    _agree("tokens", response.final.tokens, response.tokens)
    _agree("text", response.final.text, response.text)
    if response.final.finish in {Finish.STOP, Finish.LENGTH}:
        _require(response.text_is_whole is not False, "text", "is not all that its tokens say")


def _check_commitments(
    response: Response, receipt: Receipt, tokenise: Tokenise | None
) -> Evidence | None:
    """Check (6): the blinded fields recompute from settings, tokens and the sealed evidence."""
    keys, body = response.sent.opened.keys, response.sent.opened.body
    settings = settings_bytes(body.settings, response.sent.seed, body.choice)
    _agree("settings", receipt.settings, keys.blind("settings", settings))
    _agree("output", receipt.output, keys.blind("output", token_bytes(response.tokens)))
    if tokenise is not None:
        _agree("input", receipt.input, keys.blind("input", token_bytes(tokenise())))
    sealed = response.final.evidence
    _agree("evidence", receipt.evidence, None if sealed is None else sha256(sealed).digest())
    if sealed is None:
        _require(receipt.finish is Finish.FAILED, "evidence", "is missing")
        _agree("activation_root", receipt.activation_root, None)
        return None
    evidence = open_evidence(sealed, keys, response.context)
    _agree("evidence.output_tokens", evidence.output_tokens, response.tokens)
    _agree("evidence.text", evidence.text, response.text)
    _agree("input", receipt.input, keys.blind("input", token_bytes(evidence.input_tokens)))
    root = activation_root(keys, evidence.prompt_blocks, evidence.output_blocks)
    _agree("activation_root", receipt.activation_root, root)
    return evidence


def _check_usage(response: Response, receipt: Receipt, evidence: Evidence | None) -> None:
    """Check (7): the charge is for what was received, and the finish fits max_tokens."""
    usage, budget = receipt.usage, response.sent.opened.body.settings.max_tokens
    _agree("usage", usage, response.final.usage)
    _agree("finish", receipt.finish, response.final.finish)
    _agree("usage.output", usage.output, len(response.tokens))
    if evidence is not None:
        _agree("usage.input", usage.input, len(evidence.input_tokens))
    _require(usage.input >= 1, "usage.input", "is zero")
    _require(usage.cached < usage.input, "usage.cached", "counts the whole prompt as cached")
    _require(usage.output <= budget, "usage.output", f"is above max_tokens ({budget})")
    if receipt.finish is Finish.LENGTH:
        _require(usage.output == budget, "finish", "says length before max_tokens was reached")
    if receipt.finish is Finish.STOP:
        _require(usage.output >= 1, "finish", "says stop before there was a token")


def _check_times(response: Response, receipt: Receipt, now_ms: int) -> None:
    """Check (8): the times are about when the request was made and answered."""
    earliest = response.sent.order.created - SKEW_MS
    _require(
        receipt.started >= earliest,
        "started",
        f"is before the order was made: the node's clock said {shown(receipt.started)}, and this machine's"
        f" {shown(response.sent.order.created)}, {span(response.sent.order.created - receipt.started)} later",
    )
    _require(
        receipt.ended <= now_ms + SKEW_MS,
        "ended",
        f"is in the future: the node's clock said {shown(receipt.ended)}, and this machine's says"
        f" {shown(now_ms)}, {span(receipt.ended - now_ms)} earlier",
    )


def _agree(name: str, claimed: object, ours: object) -> None:
    _require(claimed == ours, name, "is not what was sent and received")


def _require(condition: bool, name: str, problem: str) -> None:
    if not condition:
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH,
            f"the receipt's {name} {problem}",
            remedy=LIE,
        )
