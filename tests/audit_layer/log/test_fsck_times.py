"""Times that nobody signed are believed between the signed ones around them, and no further."""

import pytest

from audit_layer.log.fsck_times import (
    CLOCK_SLACK_MS,
    CheckpointTimes,
    check_checkpoint_times,
    recording_windows,
)

HOUR = 3_600_000
NOW = 100 * HOUR
THREE = [
    CheckpointTimes(10, 1 * HOUR, 1 * HOUR, 1 * HOUR, 1 * HOUR),
    CheckpointTimes(20, 2 * HOUR, 2 * HOUR, 2 * HOUR, 2 * HOUR),
    CheckpointTimes(30, 3 * HOUR, 3 * HOUR, 3 * HOUR, 3 * HOUR),
]


def test_an_entry_was_recorded_before_the_first_signature_over_it_and_after_the_one_before_last():
    windows = recording_windows(THREE, NOW)
    assert [(w.end, w.earliest // HOUR, w.latest // HOUR) for w in windows] == [
        (10, 0, 1),
        (20, 0, 2),
        (30, 1, 3),
        (None, 2, 100),
    ]
    third = windows[2]
    assert third.holds(1 * HOUR - CLOCK_SLACK_MS)
    assert not third.holds(1 * HOUR - CLOCK_SLACK_MS - 1)
    assert third.holds(3 * HOUR + CLOCK_SLACK_MS)
    assert not third.holds(3 * HOUR + CLOCK_SLACK_MS + 1)


def test_a_log_without_a_checkpoint_is_bounded_by_the_present():
    (window,) = recording_windows([], NOW)
    assert window.holds(NOW)
    assert not window.holds(NOW + HOUR)


def test_an_unfinished_checkpoint_bounds_nothing_but_by_the_present():
    unfinished = [*THREE, CheckpointTimes(40, 99 * HOUR, None, None, None)]
    assert list(check_checkpoint_times(unfinished, NOW)) == []
    assert recording_windows(unfinished, NOW)[3].latest == NOW


@pytest.mark.parametrize(
    ("changed", "size", "column"),
    [
        (CheckpointTimes(20, 3 * HOUR, 2 * HOUR, 2 * HOUR, 2 * HOUR), 20, "intent_at"),
        (CheckpointTimes(20, 0, 2 * HOUR, 2 * HOUR, 2 * HOUR), 20, "intent_at"),
        (CheckpointTimes(20, 2 * HOUR, 2 * HOUR, 2 * HOUR, 1 * HOUR), 20, "published_at"),
        (CheckpointTimes(20, 2 * HOUR, 2 * HOUR, 2 * HOUR, 4 * HOUR), 20, "published_at"),
        (CheckpointTimes(20, 2 * HOUR, 2 * HOUR, 2 * HOUR, NOW + HOUR), 20, "published_at"),
    ],
)
def test_an_impossible_time_is_named(changed: CheckpointTimes, size: int, column: str):
    assert list(check_checkpoint_times(THREE, NOW)) == []
    found = {
        (at, name) for at, name, _ in check_checkpoint_times([THREE[0], changed, THREE[2]], NOW)
    }
    assert (size, column) in found
