"""Sequencer, checkpoints and publication as one machine, against the naive model: any order of steps, any fault between.

Hypothesis chooses appends (with repeats and equivocations), publications, restarts, faults at every point, and witnesses
that come and go. After each step the database is the model, and the published checkpoint is one of the model's.
"""

import asyncio
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

import audit_layer.log
import audit_layer.witness
from audit_layer.log.sequencer import Sequencer, Submission
from shared.runtime import faults
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import verify_witnessed
from tests.audit_layer.log.fault_points import fault_points
from tests.audit_layer.log.model import Model, empty, merkle_root, stored, told
from tests.audit_layer.log.world import entry, make_world

POINTS = [*fault_points(audit_layer.log), *fault_points(audit_layer.witness)]
NAMES = ["w1.example", "w2.example"]

# Few issuers and numbers, so that repeats and equivocations are common.
_one = st.builds(
    lambda issuer, number, version: Submission(
        entry((issuer, number, version)), entry(issuer), number
    ),
    st.integers(0, 1),
    st.integers(0, 400),
    st.sampled_from([0, 0, 0, 1]),
)
_unnumbered = st.builds(
    lambda name: Submission(entry(("unnumbered", name)), entry("signer"), None), st.integers(0, 20)
)
_batches = st.lists(st.one_of(_one, _unnumbered), min_size=1, max_size=8)
_runs = st.builds(
    lambda first, count: [
        Submission(entry((0, n, 0)), entry(0), n) for n in range(first, first + count)
    ],
    st.integers(0, 400),
    st.integers(100, 300),
)
"""Long enough to fill tiles."""


class LogMachine(RuleBasedStateMachine):
    """One log, from its first entry on."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        super().__init__()
        self.model = Model()
        self.world = make_world(engine, folder, names=NAMES, threshold=1)
        self.runner = asyncio.Runner()
        self.published: list[Checkpoint] = []
        self.restart()

    @rule()
    def restart(self) -> None:
        self.sequencer = Sequencer(self.world.engine)
        self.publisher = self.world.publisher()

    @rule(batch=st.one_of(_batches, _runs))
    def append(self, batch: list[Submission]) -> None:
        assert told(self.sequencer.append(batch)) == self.model.append(batch)

    @rule(
        batch=_batches, point=st.sampled_from([p for p in POINTS if p.startswith("log.sequence")])
    )
    def append_and_die(self, batch: list[Submission], point: str) -> None:
        """A fault after the commit hides the answer; the entries are there all the same."""
        reached = self._with_fault(point, lambda: told(self.sequencer.append(batch)))
        if not reached or point == "log.sequence.after-commit":
            self.model.append(batch)
        self.restart()

    @rule()
    def publish(self) -> None:
        self._publish()

    @rule(point=st.sampled_from([p for p in POINTS if not p.startswith("log.sequence")]))
    def publish_and_die(self, point: str) -> None:
        self._with_fault(point, self._publish)
        self.restart()

    @rule(which=st.sampled_from([0, 1]), down=st.booleans())
    def witness(self, which: int, down: bool) -> None:
        self.world.witnesses[which].down = down

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """What was acknowledged once keeps its index forever, whoever answers."""
        key, index = data.draw(st.sampled_from(sorted(self.model.keys.items(), key=repr)))
        value = self.model.entries[index]
        issuer, number = key if isinstance(key, tuple) else (entry("signer"), None)
        again = [Submission(value, issuer, number)]
        assert told(self.sequencer.append(again)) == [(index, True)]

    @invariant()
    def the_database_is_the_model(self) -> None:
        entries, size, root = stored(self.world.engine)
        assert entries == self.model.entries
        assert (size, root) == (len(entries), merkle_root(entries))

    @invariant()
    def what_is_published_is_the_models(self) -> None:
        note = self.world.files.checkpoint()
        if note is not None:
            checkpoint = verify_witnessed(note, self.world.policy).checkpoint
            assert checkpoint.root == self.model.root(checkpoint.size)
            assert not self.published or checkpoint.size >= self.published[-1].size
            self.published.append(checkpoint)

    def teardown(self) -> None:
        for one in self.world.witnesses:
            one.down = False
        self.restart()
        self._publish()
        self.what_is_published_is_the_models()
        size = self.published[-1].size if self.published else 0
        assert size == len(self.model.entries)
        assert self.world.fsck() == []
        self.world.close()
        self.runner.close()

    def _publish(self) -> None:
        try:
            self.runner.run(self.publisher.publish())
        except CounterfoilError as error:
            if error.code not in {Code.UNAVAILABLE, Code.NOT_WITNESSED}:
                raise
            assert any(one.down for one in self.world.witnesses)

    def _with_fault(self, point: str, act: Callable[[], object]) -> bool:
        """Act with a fault armed; return whether it was reached."""
        faults._reached.clear()
        os.environ[faults.VARIABLE] = f"{point}:raise"
        try:
            act()
        except faults.InjectedFault:
            return True
        finally:
            del os.environ[faults.VARIABLE]
        return False


def run_machine(engine: Engine, owner: Engine, folder: Path, *, examples: int, steps: int) -> None:
    numbers = itertools.count()

    def machine() -> LogMachine:
        empty(owner)
        place = folder / str(next(numbers))
        place.mkdir()
        return LogMachine(engine, place)

    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # it is only called
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_steps_and_faults_leaves_the_log_as_the_naive_one(
    engine: Engine, owner: Engine, tmp_path: Path
):
    run_machine(engine, owner, tmp_path, examples=15, steps=20)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_soak_of_orders(engine: Engine, owner: Engine, tmp_path: Path):
    run_machine(engine, owner, tmp_path, examples=400, steps=50)
