"""What a client shows by itself is judged like any other case, counts for nothing if it is good, and cannot be made up."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from audit_layer.replay.replayer import Replayer
from audit_layer.replay.shown import Heard, ShownJudge
from audit_layer.trail.standings import Standings
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of
from shared.statements.verdicts import Outcome, Reason
from shared.verification.bundle import Bundle
from shared.verification.judgement import Judgement
from shared.verification.share import Share, parse_share
from shared.verification.standing import Record
from tests.audit_layer.api import statements as made
from tests.audit_layer.disclosure import sealed_receipt
from tests.audit_layer.replay.court import FakeAuditServer
from tests.audit_layer.replay.test_outcomes import answering
from tests.audit_layer.trail.conftest import World, world

__all__ = ["world"]
NODE = ("alpha", "one")


@dataclass
class Stand:
    """A receipt in the log, what its tenant shows of it, and workers that would judge so."""

    world: World
    share: Share
    receipt: bytes
    worker: Callable[..., ShownJudge]

    def heard(self, reason: Reason = Reason.EXACT, *, name: str = "worker") -> Heard:
        return self.worker(reason, name).judge(self.share)

    def logged(self) -> list[tuple]:
        return self.world.rows(
            "SELECT entry, worker, reason, confirms, asked FROM trail_verdicts ORDER BY log_index"
        )


@pytest.fixture
def stand(world: World) -> Iterator[Stand]:
    made_receipt = sealed_receipt.make(world)
    world.trail.add_party("second", "worker", made.public("second"))
    sent = made_receipt.ciphertexts.sent
    share = Share(
        bundle=Bundle(made_receipt.case.receipt_statement, "proof", "policy"),
        secret=made_receipt.sealed.ts,
        envelope=sent.envelope,
        node_nonce=sent.node_nonce,
        accepted_signature=b"",
        frames=tuple((frame, b"") for frame in sent.frames),
        final_record=sent.final_record,
        final_signature=sent.final_signature,
    )
    with ExitStack() as stack:

        def worker(reason: Reason, name: str) -> ShownJudge:
            replayer = stack.enter_context(Replayer([], threads=1, timeout_s=60))
            replayer._command = answering(Judgement(reason, {"blocks": 1}))
            engine = world.database.engine("worker")
            server: object = FakeAuditServer(world.trail)
            return ShownJudge(name, engine, server, replayer, made.key(name))  # type: ignore[arg-type]  # a double

        yield Stand(world, share, made_receipt.case.entry, worker)


def test_a_pass_is_logged_once_without_a_disclosure_and_counts_for_nothing(stand: Stand):
    heard = stand.heard()
    assert heard.judgement is not None
    assert (heard.verdict.receipt, heard.verdict.request) == (stand.receipt, stand.receipt)
    assert heard.verdict.evidence == heard.judgement.digest
    assert stand.logged() == [(heard.entry, "worker", "exact", None, True)]
    again = stand.heard()
    assert (again.entry, again.judgement) == (heard.entry, None)
    assert len(stand.logged()) == 1
    assert Standings(stand.world.database.engine("server")).records() == {NODE: Record()}
    types = stand.world.rows("SELECT DISTINCT type FROM trail_statements")
    assert not {"disclosure-request", "disclosure-release"} & {kind for (kind,) in types}
    assert stand.world.fsck() == []


def test_a_fail_convicts_once_a_second_worker_has_judged_the_same_file(stand: Stand):
    first = stand.heard(Reason.TOKENS)
    second = stand.heard(Reason.ACTIVATIONS, name="second")
    assert (first.verdict.confirms, second.verdict.confirms) == (None, first.entry)
    records = Standings(stand.world.database.engine("server")).records()
    assert records[NODE].convicted == 1


def test_what_neither_blames_nor_clears_is_told_and_not_logged(stand: Stand):
    heard = stand.heard(Reason.UNAVAILABLE)
    assert (heard.verdict.outcome, heard.entry) == (Outcome.INCONCLUSIVE, None)
    assert stand.logged() == []
    assert stand.heard().entry is not None


# -- attacks ------------------------------------------------------------------------------------------------------

SPOILED: dict[str, Callable[[Share], Share]] = {
    "another secret": lambda s: replace(s, secret=bytes(32)),
    "another envelope": lambda s: replace(s, envelope=s.envelope + b"x"),
    "a frame left out": lambda s: replace(s, frames=s.frames[:-1]),
    "a frame altered": lambda s: replace(s, frames=((b"x" * 80, b""), *s.frames[1:])),
    "another nonce": lambda s: replace(s, node_nonce=bytes(32)),
    "a final record that the node did not sign": lambda s: replace(s, final_record=b"else"),
    "no final record": lambda s: replace(s, final_record=b"", final_signature=b"x"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_nobody_has_a_node_judged_by_what_it_did_not_send(stand: Stand, how: str):
    with pytest.raises(CounterfoilError) as caught:
        stand.worker(Reason.TOKENS, "worker").judge(SPOILED[how](stand.share))
    assert caught.value.code in {Code.COMMITMENT_MISMATCH, Code.UNREADABLE, Code.BAD_SIGNATURE}
    assert stand.logged() == []


def test_a_receipt_that_the_log_does_not_have_is_not_judged(stand: Stand):
    other = stand.world.node.receipt("acme").statement
    unknown = replace(stand.share, bundle=Bundle(other, "proof", "policy"))
    bundles = replace(stand.share, bundle=Bundle(made.bundle("alpha"), "proof", "policy"))
    for share in (unknown, bundles):
        with pytest.raises(CounterfoilError) as caught:
            stand.worker(Reason.TOKENS, "worker").judge(share)
        assert caught.value.code is Code.NOT_FOUND
    assert stand.logged() == []
    assert entry_of(other) != stand.receipt


def test_a_file_that_is_no_share_is_refused():
    with pytest.raises(CounterfoilError) as caught:
        parse_share(b"{}")
    assert caught.value.code is Code.MALFORMED
