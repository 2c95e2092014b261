"""The tasks of the epoch clock: what cannot be done now is left for the next tick, quietly; anything else is an error."""

import pytest
from celery import Celery

from audit_layer.selection.tasks import TICK, register_authority
from shared.runtime.errors import Code, CounterfoilError


class Clock:
    """A double of the authority, which fails with what it is given."""

    def __init__(self, *errors):
        self._errors = list(errors)
        self.offered = 0

    def tick(self, _now):
        if self._errors and (error := self._errors.pop(0)) is not None:
            raise error

    def offer(self):
        self.offered += 1

    def task(self):
        app = Celery()
        register_authority(app, self, self.offer)
        return app.tasks[TICK]


def away(detail="nobody answers"):
    return CounterfoilError(Code.UNAVAILABLE, detail)


def test_a_server_that_is_away_is_told_once_and_work_is_offered_all_the_same(caplog):
    clock = Clock(away(), away(), away("another reason"), None, away())
    task = clock.task()
    for _ in range(5):
        task()
    told = [record.getMessage() for record in caplog.records]
    assert [("nobody" in text, "another" in text) for text in told] == [
        (True, False),
        (False, True),
        (True, False),  # it had worked in between
    ]
    assert clock.offered == 5


def test_what_a_later_tick_cannot_mend_is_an_error():
    with pytest.raises(CounterfoilError) as caught:
        Clock(CounterfoilError(Code.CORRUPT, "the books differ")).task()()
    assert caught.value.code is Code.CORRUPT
