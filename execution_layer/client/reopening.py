"""An attempt of an earlier process, from the archive: what was sent, and what had come back."""

from collections.abc import Sequence

from execution_layer.client.archive import Archive, State, Transcript
from execution_layer.client.attempt import Attempt
from execution_layer.client.chain_check import SentPart, part_order
from execution_layer.client.part_records import Part
from execution_layer.client.reading import Texts
from execution_layer.client.response_check import Sent
from execution_layer.client.wanted import OnRetry, OnText, Wanted
from shared.envelope.header import envelope_hash
from shared.envelope.sealing import open_with_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer, public_bytes
from shared.statements.cose import entry_of, open_as, parse_statement
from shared.statements.keys import KeyBundle
from shared.statements.orders import Order
from shared.verification.trust import key_for

RESUMABLE = frozenset({State.ORDERED, State.BROKEN, State.LOST})


def sent_of(
    transcript: Transcript,
    bundle: KeyBundle,
    entry: bytes,
    own_key: bytes,
    stages: Sequence[tuple[KeyBundle, bytes]] = (),
) -> Sent:
    """Return what was sent in an attempt, given its node's key bundle and those of a chain's `stages` in order, each with its
    entry; COMMITMENT_MISMATCH if orders and envelope do not belong together.
    """
    order, statement = open_as(Order, transcript.order_statement, own_key)
    opened = open_with_secret(transcript.envelope, transcript.secret)
    ours = (opened.ctx, opened.kc, envelope_hash(transcript.envelope), entry)
    if (order.ctx, order.kc, order.envelope, order.bundle) != ours:
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the order is for another envelope")
    named = tuple(stage.bundle for stage in opened.header.stages or ())
    parts = zip(transcript.parts, stages, strict=True)
    found = tuple(_part(order, statement.entry, *part, own_key) for part in parts)
    if named != tuple(part.order.bundle for part in found):
        raise CounterfoilError(Code.COMMITMENT_MISMATCH, "the orders are for other stages")
    return Sent(order, statement.entry, opened, bundle, entry, own_key, found)


def _part(
    head: Order, head_entry: bytes, kept: Part, stage: tuple[KeyBundle, bytes], own_key: bytes
) -> SentPart:
    bundle, entry = stage
    order, statement = open_as(Order, kept.order_statement, own_key)
    if order != part_order(head, head_entry, kept.place, entry, order.rate_card):
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH,
            f"the order for stage {kept.place} is not a part of the head's",
        )
    return SentPart(order, statement.entry, bundle)


def reopened(
    archive: Archive,
    kept: Transcript,
    key: Signer,
    own: Sequence[bytes],
    texts: Texts,
    on_text: OnText | None,
    on_pause: OnRetry | None,
) -> tuple[Attempt, KeyBundle]:
    """Return an attempt that may be resumed, and its node's key bundle; CONFLICT for one that has come to its end.

    `key` signs for the tenant now; `own` are the public keys that it ever had, with one of which the order is signed.
    """
    if kept.state not in RESUMABLE:
        raise CounterfoilError(
            Code.CONFLICT, f"there is nothing to resume: the attempt is {kept.state.value}"
        )
    # Key bundles were checked before the request was sealed for them.
    bundle, entry = _bundle(archive, kept.bundle)
    signer = key_for(parse_statement(kept.order_statement), (*own, public_bytes(key)))
    stages = [_bundle(archive, part.bundle) for part in kept.parts]
    sent = sent_of(kept, bundle, entry, signer, stages)
    wanted = Wanted(
        body=sent.opened.body,
        model_root=sent.opened.header.model_root,
        tags=kept.tags,
        cost_centre=sent.order.cost_centre,
        on_text=on_text,
        model_text=texts.of(sent.opened.header.model_root),
        on_pause=on_pause,
    )
    return Attempt.reopen(archive, kept, wanted, sent, key), bundle


def _bundle(archive: Archive, entry: bytes) -> tuple[KeyBundle, bytes]:
    statement, _ = archive.bundle(entry)
    return open_as(KeyBundle, statement, None)[0], entry_of(statement)
