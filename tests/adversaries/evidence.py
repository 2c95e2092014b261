"""Evidence that is kept back, made up afterwards, or contradicts what was sent."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

from execution_layer.engine.sequence import SequenceState
from execution_layer.node import session as session_module
from execution_layer.node.drafts import Outcome
from execution_layer.node.request_records import StoredEvidence
from execution_layer.node.session import Session
from execution_layer.node.store import NodeStore
from execution_layer.wiring import node as wiring
from shared.envelope.evidence import open_evidence, seal_evidence
from shared.envelope.stream import (
    FinalRecord,
    FrameOpener,
    FrameSealer,
    final_signature_message,
)
from shared.model import profile as profiles
from shared.model.profile import Profile
from shared.model.replay import replay
from shared.model.sampler import Sampled, Sampler
from shared.runtime.errors import Code
from shared.statements.cose import entry_of
from shared.statements.logprobs import TokenLogprobs
from shared.statements.receipts import Finish, Receipt
from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary, patched
from tests.adversaries.receipts import final_changed, outcome_changed, receipt_changed
from tests.adversaries.sampling import TOKENS, other_seed, sampling_as
from tests.adversaries.two_models import Loaded, loading
from tests.adversaries.weights import first_half, weights_altered

REFUSED: Final = frozenset({Code.COMMITMENT_MISMATCH})
WITHHELD = frozenset({Reason.WITHHELD})
STREAM = frozenset({Reason.STREAM})


def together(*changes: AbstractContextManager[None]) -> AbstractContextManager[None]:
    """Apply several changes at once."""

    @contextmanager
    def all_of_them() -> Iterator[None]:
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(change)
            yield

    return all_of_them()


def evidence_changed(
    change: Callable[[StoredEvidence], StoredEvidence | None],
) -> AbstractContextManager[None]:
    """Hand out something else than what is stored, or nothing."""
    ordinary = NodeStore.evidence_of

    def evidence_of(self: NodeStore, receipt_entry: bytes) -> StoredEvidence | None:
        found = ordinary(self, receipt_entry)
        return None if found is None else change(found)

    return patched((NodeStore, "evidence_of", evidence_of))


@contextmanager
def regenerated() -> Iterator[None]:
    """Serve a cheap model, and prefill with the honest one only what somebody asks evidence for."""
    sessions: dict[bytes, Session] = {}
    ordinary = Session._outcome

    def outcome(self: Session, *how: Any) -> Outcome:
        sessions[self._record.order_entry] = self
        return ordinary(self, *how)

    with loading(first_half) as loaded:

        def made_up(found: StoredEvidence) -> StoredEvidence:
            return _with_honest_states(found, sessions[entry_of(found.order)], loaded)

        with patched((Session, "_outcome", outcome)), evidence_changed(made_up):
            yield


def _with_honest_states(found: StoredEvidence, session: Session, loaded: Loaded) -> StoredEvidence:
    """Seal the final record again, with the states that an honest node would have had for these tokens."""
    keys, context, admitted = session._keys, session._context, session._admitted
    opener, sealer = FrameOpener(keys, context), FrameSealer(keys, context)
    for frame in found.frames:
        opener.open(frame)
        sealer._advance(frame)
    final = opener.open_final(found.final_record)
    assert final.evidence is not None
    told = open_evidence(final.evidence, keys, context)
    engine: Any = session._generation
    honest = loaded.decoder(engine._engine._decoder.backend)
    body = admitted.opened.body
    states = replay(
        honest,
        told.input_tokens,
        told.output_tokens,
        body.settings,
        admitted.seed,
        choice=body.choice,
    ).activations
    better = replace(told, prompt_blocks=states.prompt_blocks, output_blocks=states.output_blocks)
    sealed = sealer.seal_final(replace(final, evidence=seal_evidence(better, keys, context)))
    message = final_signature_message(context, sealer.h_final, sealed)
    return replace(
        found, final_record=sealed, final_signature=session._parts.signer.message(message)
    )


def other_text() -> AbstractContextManager[None]:
    """Send text with small letters for capital ones and the other way round: not what the tokens say."""
    take, rest = SequenceState.take, SequenceState.rest
    return patched(
        (SequenceState, "take", lambda self, token: take(self, token).swapcase()),
        (SequenceState, "rest", lambda self: rest(self).swapcase()),
    )


class Flattering(Sampler):
    """Reports every log-probability as half of what it is."""

    def sample(self, *arguments: Any) -> Sampled:
        sampled = super().sample(*arguments)
        return replace(sampled, logprobs=tuple(map(_halved, sampled.logprobs)))


def _halved(told: TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(
        -(-told.logprob // 2), told.top_tokens, tuple(-(-value // 2) for value in told.top_logprobs)
    )


class Spoiling(FrameSealer):
    """Seals a final record that does not open; the node signs it all the same."""

    def seal_final(self, record: FinalRecord) -> bytes:
        sealed = super().seal_final(record)
        return sealed[:-1] + bytes([sealed[-1] ^ 1])


def of_another_request() -> Callable[[FinalRecord], FinalRecord]:
    """Return a change that puts the receipt of the request before into every final record."""
    before: list[bytes] = []

    def swapped(record: FinalRecord) -> FinalRecord:
        before.append(record.receipt)
        return replace(record, receipt=before[max(0, len(before) - 2)])

    return swapped


def stale() -> Callable[[Receipt], Receipt]:
    """Return a change that has every receipt speak of the stream of the one before."""
    before: list[Receipt] = []

    def old(receipt: Receipt) -> Receipt:
        before.append(receipt)
        last = before[max(0, len(before) - 2)]
        return replace(receipt, node_nonce=last.node_nonce, h_final=last.h_final)

    return old


def failed_without_evidence(outcome: Outcome) -> Outcome:
    """Call the request failed, so that there is nothing to commit to."""
    return replace(outcome, finish=Finish.FAILED, prompt_blocks=(), output_blocks=(), evidence=None)


def odd_profile() -> AbstractContextManager[None]:
    """Declare an arithmetic that no auditor computes."""
    ordinary = profiles.profile_id

    def odd(profile: Profile) -> bytes:
        return ordinary({**profile, "arithmetic": "own-1"})

    return patched((profiles, "profile_id", odd), (wiring, "profile_id", odd))


def _final(
    name: str, summary: str, change: Callable[[FinalRecord], FinalRecord], reason: Reason
) -> Adversary:
    return Adversary(name, summary, lambda: final_changed(change), frozenset({reason}), REFUSED)


def fewer_tokens(record: FinalRecord) -> FinalRecord:
    """Leave out the last token."""
    return replace(record, tokens=record.tokens[:-1])


def lower_usage(record: FinalRecord) -> FinalRecord:
    """Tell the client a lower bill than the log."""
    return replace(record, usage=replace(record.usage, output=max(0, record.usage.output - 1)))


ADVERSARIES = (
    Adversary(
        "withheld",
        "hands out no evidence",
        lambda: evidence_changed(lambda _: None),
        WITHHELD,
    ),
    Adversary(
        "regenerated",
        "serves a cheap model, and has an honest machine make the evidence once it is asked for",
        regenerated,
        frozenset({Reason.EVIDENCE}),
    ),
    Adversary(
        "other-text",
        "sends a text that its tokens do not say",
        other_text,
        frozenset({Reason.TEXT}),
        REFUSED,
    ),
    Adversary(
        "false-logprobs",
        "reports log-probabilities, where they are asked for, twice as good as they are",
        lambda: sampling_as(kind=Flattering),
        frozenset({Reason.LOGPROBS}),
        seldom="it cheats only where log-probabilities are asked for",
    ),
    Adversary(
        "receipt-of-another",
        "puts the receipt of another request into the final record",
        lambda: final_changed(of_another_request()),
        STREAM,
        REFUSED,
    ),
    Adversary(
        "stale-receipt",
        "signs a receipt over the stream of an earlier answer",
        lambda: receipt_changed(stale()),
        WITHHELD,
        REFUSED,
    ),
    _final(
        "other-final-tokens", "leaves a token out of the final record", fewer_tokens, Reason.STREAM
    ),
    _final(
        "other-final-usage", "tells the client a lower bill than the log", lower_usage, Reason.USAGE
    ),
    Adversary(
        "spoiled-final",
        "samples from another seed and signs a final record that does not open",
        lambda: together(
            sampling_as(seed=other_seed), patched((session_module, "FrameSealer", Spoiling))
        ),
        TOKENS | STREAM,
        frozenset({Code.UNREADABLE}),
    ),
    Adversary(
        "absent-final",
        "samples from another seed and hands out the frames without a final record",
        lambda: together(
            sampling_as(seed=other_seed),
            evidence_changed(lambda found: replace(found, final_record=b"", final_signature=b"")),
        ),
        TOKENS | WITHHELD,
    ),
    Adversary(
        "failed-unproved",
        "serves a cheap model and calls every answer failed, which needs no evidence",
        lambda: together(weights_altered(first_half), outcome_changed(failed_without_evidence)),
        TOKENS,
    ),
    Adversary(
        "odd-profile",
        "declares a numeric profile that no auditor computes",
        odd_profile,
        frozenset({Reason.PROFILE}),
    ),
)
