"""Receipts of an operator are held against its hardware: one by one, and those of each node together."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.orm import Session

from audit_layer.costs.plausibility import checking
from audit_layer.costs.plausibility.checking import SHOWN, NodeReport, check_operator
from audit_layer.trail.service import Submission
from shared.codec.moment import Period
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.receipts import EnergyQuality, Usage
from shared.verification.devices import DEVICES
from shared.verification.physics import Model, Quantity, Serving
from tests.audit_layer.api import statements as made
from tests.audit_layer.api.chain import Parties, stage_bundle
from tests.audit_layer.costs.test_service import Books, books
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "world"]

SMALL = Model(body=7_504_924_672, head=525_336_576)
TINY = Model(body=1000)
SERVING = Serving(DEVICES["h100-sxm"])
IDLE = replace(SERVING, device=replace(DEVICES["h100-sxm"], idle_watts=100.0))
EVER = Period(made.NOW - 3_600_000, made.NOW)
STARTED = made.NOW - 1000
"""Of every receipt, 10 ms long, unless another time is given."""


def usage(output: int = 7, compute: int | None = None, energy: int | None = None) -> Usage:
    quality = EnergyQuality.UNMEASURED if energy is None else EnergyQuality.MEASURED
    return Usage(5, 0, output, quality, compute, energy)


def checked(
    books: Books, model: Model | None, serving: Serving = SERVING, days: Period = EVER, **more: Any
) -> list[NodeReport]:
    models = {} if model is None else {made.MODEL: model}
    with Session(books.world.database.engine("server")) as db:
        return check_operator(db, days, "alpha", serving, models, **more)


def test_what_the_hardware_can_do_is_no_finding_and_the_unmeasured_is_counted(books: Books):
    for _ in range(3):
        books.receipt()
    (report,) = checked(books, TINY)
    assert (report.node, report.receipts, report.implausible) == ("one", 3, False)
    assert report.unmeasured == {Quantity.COMPUTE: 3, Quantity.ENERGY: 3}
    assert report.unbounded == {}


def test_the_nodes_of_a_chain_are_not_held_against_a_whole_model(books: Books):
    """Each computes some of the layers; how many is not in the model's size, so nothing is said."""
    (bundle,) = books.world.put(Submission(stage_bundle("beta", 1, 2)))
    stage = made.Node("beta", bundle.entry, books.card("beta"))
    books.world.put(*Parties(books.world.node, [stage]).answer())
    (report,) = checked(books, SMALL)
    assert (report.receipts, report.implausible) == (1, False)
    assert sum(report.unbounded.values()) > 0


def test_what_it_cannot_do_is_a_finding_of_each_receipt_and_of_all_together(books: Books):
    """Seven passes over 16 GB take 27 ms, not 10."""
    entries = [books.receipt().hex() for _ in range(3)]
    (report,) = checked(books, SMALL)
    assert report.found == {Quantity.TOKENS: 3}
    assert sorted(finding.subject for finding in report.worst) == sorted(entries)
    (finding,) = report.together
    assert (finding.quantity, finding.claimed) == (Quantity.TOKENS, 10)
    assert report.implausible


def test_a_model_of_unknown_size_is_counted_and_not_judged(books: Books):
    books.receipt()
    (report,) = checked(books, None)
    assert not report.implausible
    assert report.unbounded == {"the model's size is not known": 1}


def test_only_the_worst_findings_are_kept_and_all_are_counted(books: Books):
    for number in range(SHOWN + 5):
        books.receipt(usage=usage(compute=100 + number))
    (report,) = checked(books, TINY)
    assert report.found == {Quantity.COMPUTE: SHOWN + 5}
    assert [finding.claimed for finding in report.worst] == [
        100.0 + number for number in reversed(range(5, SHOWN + 5))
    ]


def test_receipts_that_overlap_the_time_are_looked_at_and_no_others(books: Books):
    for start in (STARTED - 100, STARTED - 5, STARTED, STARTED + 15, STARTED + 20):
        books.receipt(started=start, ended=start + 10)
    (report,) = checked(books, TINY, days=Period(STARTED, STARTED + 20))
    assert report.receipts == 3
    assert checked(books, TINY, node="two") == []
    assert checked(books, TINY, days=Period(0, 1)) == []


def test_too_little_energy_is_not_said_of_a_stretch_that_the_time_cuts(books: Books):
    """What lies outside may hold the rest of the counter."""
    for shift in (0, 500):
        books.receipt(
            started=STARTED + shift,
            ended=STARTED + 1000 + shift,
            usage=usage(compute=900, energy=1),
        )
    serving = replace(IDLE, engines=2)
    (report,) = checked(books, TINY, serving, Period(STARTED, made.NOW + 1000))
    assert [finding.quantity for finding in report.together] == [Quantity.ENERGY]
    (cut,) = checked(books, TINY, serving, Period(STARTED + 1, made.NOW + 1000))
    assert cut.together == ()
    assert cut.unbounded_together == {"the time that was asked for cuts a busy stretch": 1}


def test_each_node_is_looked_at_by_itself(books: Books):
    books.receipt()
    books.receipt(node=books.node("beta"))
    assert [(report.node, report.receipts) for report in checked(books, TINY)] == [("one", 1)]


def test_more_receipts_than_fit_are_refused_and_not_left_out(
    books: Books, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checking, "MOST_RECEIPTS", 2)
    for number in range(3):
        assert (len(checked(books, TINY)) == 1) == (number > 0)
        books.receipt()
    with pytest.raises(CounterfoilError, match="more than 2 receipts") as caught:
        checked(books, TINY)
    assert caught.value.code is Code.INVALID_ARGUMENT
