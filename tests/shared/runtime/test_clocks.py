"""Clocks that disagree are named: both times, and their difference, at both ends."""

import json

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from shared.codec.moment import now_ms
from shared.runtime.clocks import CLOCK, compared, shown, span, untimely
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.runtime.interceptor import status_of
from shared.runtime.problems import from_problem, to_problem

NOON = 1_772_366_400_000  # 2026-03-01 12:00:00 UTC
MINUTE = 60_000


def over_grpc(error: CounterfoilError) -> CounterfoilError:
    """Return the error as the other side of a call receives it."""
    status = status_of(error, "/x")
    trailing = Metadata(("grpc-status-details-bin", status.SerializeToString()))
    code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
    return error_from_rpc(AioRpcError(code, Metadata(), trailing, status.message))


def over_http(error: CounterfoilError) -> CounterfoilError:
    """The same for an HTTP answer."""
    status, _, members = to_problem(error)
    return from_problem(status, json.dumps(members).encode(), "the node")


WAYS = pytest.mark.parametrize("way", [over_grpc, over_http])


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (NOON + 9 * MINUTE, "the clock here says 2026-03-01 12:09:00 UTC, 9 min later"),
        (NOON - 90_000, "the clock here says 2026-03-01 11:58:30 UTC, 1 min 30 s earlier"),
    ],
)
def test_a_time_that_does_not_fit_is_reported_with_the_clock(now, said):
    error = untimely(Code.EXPIRED, "the order expired at", NOON, now)
    assert error.detail == f"the order expired at 2026-03-01 12:00:00 UTC; {said}"


@WAYS
@pytest.mark.parametrize(("apart", "side"), [(2 * 3_600_000, "ahead of"), (-MINUTE * 7, "behind")])
def test_a_peer_whose_clock_differs_is_reported_with_the_difference(way, apart, side):
    there = now_ms() - apart
    told = way(untimely(Code.EXPIRED, "the order expired at", there - 5000, there))
    assert told.code is Code.EXPIRED
    assert (
        f"the clock here says {shown(there)}, 5 s later. This machine's clock says" in told.detail
    )
    assert f"{side} the other side's" in told.detail
    assert "Set the clock that is wrong." in (told.remedy or "")


@WAYS
def test_clocks_that_agree_are_not_blamed(way):
    told = way(untimely(Code.EXPIRED, "the order expired at", now_ms() - 3_600_000, now_ms()))
    assert "1 h later" in told.detail
    assert "This machine's clock" not in told.detail


@pytest.mark.parametrize("text", ["", "x", "-5", "9" * 400, "1e9", "٣"])
def test_a_hostile_peer_s_clock_says_nothing(text):
    error = CounterfoilError(Code.EXPIRED, "late", metadata={CLOCK: text})
    assert compared(error, NOON) is error


def test_what_no_calendar_has_is_shown_as_a_number():
    error = CounterfoilError(Code.EXPIRED, "late", metadata={CLOCK: "9" * 15})
    assert "This machine's clock says" in compared(error, NOON).detail
    assert shown(10**15 - 1) == f"{10**15 - 1} ms"


@pytest.mark.parametrize(
    ("ms", "said"),
    [(0, "0 s"), (999, "0 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h"), (90_061_000, "1 d 1 h")],
)
def test_a_span_has_its_two_largest_units(ms, said):
    assert span(ms) == span(-ms) == said
