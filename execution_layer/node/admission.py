"""Admission: the checks that a request must pass before it is accepted (protocol §3), in numbered steps.

No step writes anything; a request that was accepted before is refused every time. What fails after step 1 is raised as `Unfit`,
with what a signed refusal says of it (protocol §3.7). Anything too long is refused before any of it is parsed. Steps 1 to 7 open
nothing: they compare what anyone can see with the node's tenants, its key bundles and the orders that it has accepted.
Steps 8 and 9 open the envelope: what fails once its wrap is opened looks the same from outside, except settings that
are out of range.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from execution_layer.node import order_times
from execution_layer.node.chain import Part, check_parts
from execution_layer.node.identity import BundleKeys, KeyRing
from execution_layer.node.order_checks import (
    OrderChecks,
    TenantKeys,
    check_header,
    check_model,
    check_size,
    for_another,
)
from execution_layer.node.refusing import Reasons, judging
from execution_layer.node.settings import Quotas
from shared.envelope.body import MAX_BODY
from shared.envelope.header import MAX_ENVELOPE, Envelope, Header, envelope_hash
from shared.envelope.sealing import OpenedRequest, open_request
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.orders import Order
from shared.statements.refusals import RefusalReason
from shared.statements.request import RequestBody

_TIMES: Final[Reasons] = {
    Code.EXPIRED: RefusalReason.TIMES,
    Code.INVALID_ARGUMENT: RefusalReason.TIMES,
}
_ENVELOPE: Final[Reasons] = {
    **_TIMES,
    Code.MALFORMED: RefusalReason.ENVELOPE,
    Code.UNSUPPORTED: RefusalReason.ENVELOPE,
    Code.NO_ORDER: RefusalReason.ENVELOPE,
    Code.STALE_KEY: RefusalReason.ENVELOPE,
}
_OPENED: Final[Reasons] = {
    Code.UNREADABLE: RefusalReason.UNREADABLE,
    Code.EXPIRED: RefusalReason.TIMES,
    Code.INVALID_ARGUMENT: RefusalReason.REQUEST,
}
ACCEPTED: Final[Reasons] = {Code.INVALID_ARGUMENT: RefusalReason.REQUEST}
"""What the engine says of a request that has passed all steps."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What admission needs to know of this node's one model."""

    root: bytes
    numeric_profile: bytes
    max_positions: int
    """Longest sequence, prompt plus output, in tokens."""
    tokenise: Callable[[RequestBody], tuple[int, ...]]
    most_bytes: int = MAX_BODY
    """Maximum size of a prompt's contents in bytes; longer ones are not tokenised."""
    stages: int = 0
    """Stages of other operators to which the node leaves layers, under orders of their own."""


class Seen(Protocol):
    """Remembers accepted orders and envelopes, and refused orders, even across restarts."""

    def was_seen(self, order_entry: bytes, ctx: bytes) -> bool:
        """Return whether an order or an envelope was accepted, or the order refused, before."""


@dataclass(frozen=True, slots=True, repr=False)
class Checked:
    """A request whose public part has passed the checks."""

    order: Order
    order_statement: bytes
    order_entry: bytes
    tenant_key: bytes
    """The public key (32 bytes) that signed the order."""
    envelope: bytes
    keys: BundleKeys
    parts: tuple[Part, ...] = ()
    """The orders for the stages of its chain."""


@dataclass(frozen=True, slots=True, repr=False)
class Admitted:
    """A request that passed all steps, opened and tokenised."""

    order: Order
    order_statement: bytes
    order_entry: bytes
    tenant_key: bytes
    """The public key (32 bytes) that signed the order."""
    envelope: bytes
    opened: OpenedRequest
    prompt_ids: tuple[int, ...]
    parts: tuple[Part, ...] = ()
    head_bundle: bytes = b""
    """The key bundle (statement) that was ordered from."""

    @property
    def seed(self) -> bytes:
        """The effective sampling seed, 32 bytes; the node never chooses it."""
        return self.opened.body.seed or self.opened.keys.sampling_seed


class Admission:
    """The steps, with what this node knows."""

    def __init__(
        self,
        *,
        ring: KeyRing,
        tenants: TenantKeys,
        seen: Seen,
        model: ServedModel,
        rate_card: bytes,
        quotas: Quotas,
    ) -> None:
        self._checks = OrderChecks(
            ring, tenants, rate_card=rate_card, max_output_tokens=quotas.max_output_tokens
        )
        self._seen = seen
        self._model = model

    def check(
        self, order_statement: bytes, envelope: bytes, now_ms: int, parts: Sequence[bytes] = ()
    ) -> Checked:
        """Run steps 1 to 7; nothing is opened yet. `parts` are the orders for stages."""
        check_size("envelope", envelope, MAX_ENVELOPE)
        found = self._checks.signed(order_statement)  # (1)
        order, entry = found.order, found.entry
        with judging(order, entry, _TIMES):
            order_times.check_order(order, now_ms)  # (2)
        with judging(order, entry, {Code.STALE_KEY: RefusalReason.KEY_BUNDLE}):
            keys = self._checks.bundle(order, now_ms)  # (3)
        with judging(order, entry, _ENVELOPE):
            header = self._check_envelope(order, envelope, now_ms)  # (4)
        with judging(order, entry, {Code.INVALID_ARGUMENT: RefusalReason.TERMS}):
            self._check_terms(order)  # (5)
            self._check_chain(header)
        with judging(order, entry, {}):
            orders = check_parts(order, entry, header, parts)
        with judging(order, entry, {Code.UNKNOWN_MODEL: RefusalReason.MODEL}):
            check_model(header, self._model.root, keys)  # (6)
        with judging(order, entry, {}):
            self._check_new(order, entry)  # (7)
        return Checked(order, order_statement, entry, found.tenant_key, envelope, keys, orders)

    def open(self, checked: Checked, now_ms: int) -> Admitted:
        """Run steps 8 and 9: open the envelope and tokenise the prompt."""
        with judging(checked.order, checked.order_entry, _OPENED):
            return self._open(checked, now_ms)

    def _open(self, checked: Checked, now_ms: int) -> Admitted:
        opened = open_request(  # (8)
            checked.envelope,
            bundle_entry=checked.keys.entry,
            hpke_private=checked.keys.hpke,
            now_ms=now_ms,
        )
        size = opened.body.size  # (9)
        if size > self._model.most_bytes:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"the prompt is {size} bytes long; this node's context of {self._model.max_positions}"
                f" tokens has room for at most {self._model.most_bytes}",
                remedy="Shorten the prompt.",
            )
        if len(opened.body.prefix) >= self._model.max_positions:
            raise self._too_long(len(opened.body.prefix), opened.body)
        if opened.body.slots is not None:
            opened.body.slots.check(opened.body.settings, checked.order.max_ms)
        prompt_ids = self._model.tokenise(opened.body)
        most = checked.order.max_input_tokens
        assert most is not None  # mandatory in every new order (1)
        if len(prompt_ids) > most:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"the prompt has {len(prompt_ids)} tokens; the order pays for {most}",
                remedy="Order with a higher max_input_tokens.",
            )
        if len(prompt_ids) > self._model.max_positions - opened.body.settings.max_tokens:
            raise self._too_long(len(prompt_ids), opened.body)
        return Admitted(
            order=checked.order,
            order_statement=checked.order_statement,
            order_entry=checked.order_entry,
            tenant_key=checked.tenant_key,
            envelope=checked.envelope,
            opened=opened,
            prompt_ids=prompt_ids,
            parts=checked.parts,
            head_bundle=checked.keys.statement,
        )

    def _too_long(self, tokens: int, body: RequestBody) -> CounterfoilError:
        context, budget = self._model.max_positions, body.settings.max_tokens
        return CounterfoilError(
            Code.INVALID_ARGUMENT,
            f"the prompt has {tokens} tokens; with max_tokens {budget} this node's context of"
            f" {context} has room for {max(0, context - budget)}",
            remedy="Shorten the prompt or ask for fewer tokens.",
        )

    def _check_new(self, order: Order, entry: bytes) -> None:
        """Check that neither the order nor its envelope was seen before."""
        if self._seen.was_seen(entry, order.ctx):
            raise CounterfoilError(
                Code.REPLAYED,
                f"order {order.number} attempt {order.attempt} was accepted or refused before",
                remedy="Seal the request again and order it under the next attempt.",
            )

    def _check_envelope(self, order: Order, raw: bytes, now_ms: int) -> Header:
        """Check that the order is for exactly this envelope."""
        envelope = Envelope.from_bytes(raw)
        check_header(order, envelope.header, envelope.kc, now_ms)
        if order.envelope != envelope_hash(raw):
            raise for_another("envelope hash")
        if order.bundle not in envelope.header.candidates:
            raise CounterfoilError(
                Code.STALE_KEY, "the envelope is not sealed for the key bundle that the order names"
            )
        return envelope.header

    def _check_terms(self, order: Order) -> None:
        """Check the price and the budget, and that the order is for a whole answer."""
        if order.part is not None:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"the order is for the part of place {order.part.place} in a chain, not for an answer",
                remedy="Order the answer from the chain's head; it hands the stages their orders.",
            )
        self._checks.terms(order)

    def _check_chain(self, header: Header) -> None:
        """Check that the request is sealed for as many stages as the node leaves layers to."""
        if len(header.stages or ()) != self._model.stages:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                f"the request is sealed for {len(header.stages or ())} stages; this node leaves layers to"
                f" {self._model.stages}",
                remedy="Read the key directory again: the node's key bundle names its stages.",
            )
