"""A server's gate: whom it counts as one peer, and what it says when it refuses."""

import contextlib

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # no stubs

from shared.runtime.config import Settings, load, to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.interceptor import status_of
from shared.runtime.problems import to_problem
from shared.runtime.traffic import Gate, Traffic, peer_of, peer_of_grpc


@pytest.mark.parametrize(
    ("called", "peer"),
    [
        ("ipv4:192.0.2.7:50123", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50123", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::9]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:1", "192.0.2.7"),
        ("unix:/run/socket", "unix"),
        ("unix:", "unix"),
        ("", ""),
        ("x" * 500, "x" * 64),
    ],
)
def test_a_peer_is_its_address_without_the_port(called, peer):
    assert peer_of_grpc(called) == peer


def test_a_zone_or_a_name_is_not_an_address_and_still_a_peer():
    assert peer_of("fe80::1%eth0") == "fe80::/64"
    assert peer_of("testclient") == "testclient"


def refusal(gate, peer="192.0.2.7", method="/p.S/Get"):
    with pytest.raises(CounterfoilError) as caught, gate.call(peer, method):
        pass
    assert caught.value.code is Code.OVERLOADED
    assert caught.value.retry_after_s
    return caught.value


def test_methods_have_buckets_of_their_own_and_their_own_rates():
    gate = Gate(Traffic(calls_per_s=2, method_calls_per_s={"Put": 1}), clock=lambda: 0.0)
    for method, most in (("/p.S/Get", 8), ("/p.S/Put", 4)):
        for _ in range(most):
            with gate.call("192.0.2.7", method):
                pass
        assert method in refusal(gate, method=method).detail
    with gate.call("192.0.2.8", "/p.S/Get"):
        pass


def test_limits_are_written_and_read_as_a_table_of_a_configuration(tmp_path):
    class Server(Settings):
        traffic: Traffic = Traffic()

    changed = Server(traffic=Traffic(calls_per_s=7, method_calls_per_s={"Deposit": 0.5}))
    path = tmp_path / "server.toml"
    for settings in (Server(), changed):
        path.write_text(to_toml(settings))
        assert load(Server, path) == settings
    path.write_text("[traffic]\ncalls_per_second = 1\n")
    with pytest.raises(CounterfoilError, match="calls_per_s"):
        load(Server, path)


def test_a_call_that_fails_gives_its_place_back():
    gate = Gate(Traffic(calls_in_flight_per_peer=1))
    for _ in range(3):
        with gate.call("192.0.2.7", "/p.S/Get"):
            refusal(gate)
        with contextlib.suppress(ValueError), gate.call("192.0.2.7", "/p.S/Get"):
            raise ValueError("mine")


def test_a_token_is_counted_wherever_it_is_shown():
    gate = Gate(Traffic(calls_per_s=1), clock=lambda: 0.0)
    for _ in range(4):
        gate.credential(b"Bearer a")
    with pytest.raises(CounterfoilError, match="token"):
        gate.credential(b"Bearer a")
    gate.credential(b"Bearer b")


def test_bodies_share_a_memory_of_which_one_peer_gets_a_quarter():
    gate = Gate(Traffic(body_mib=4))
    with gate.body("192.0.2.7", 2**20):
        with pytest.raises(CounterfoilError), gate.body("192.0.2.7", 1):
            pass
        with gate.body("192.0.2.8", 2**20), gate.body("192.0.2.9", 2**20):
            pass


@pytest.mark.parametrize("whose", ["party", "tenant"])
def test_a_party_and_a_tenant_are_counted_by_method_wherever_they_call_from(whose):
    now = [0.0]
    gate = Gate(Traffic(party_calls_per_s=2, tenant_calls_per_s=2), clock=lambda: now[0])
    count = getattr(gate, whose)
    for _ in range(8):
        count("worker one", "/p.S/Get")
    for name, method in (("worker two", "/p.S/Get"), ("worker one", "/p.S/Put")):
        count(name, method)  # neither another caller nor another method pays for it
    for _ in range(2):
        with pytest.raises(CounterfoilError) as caught:
            count("worker one", "/p.S/Get")
        assert caught.value.code is Code.OVERLOADED
        assert caught.value.retry_after_s == pytest.approx(0.5)
        assert "worker one calls /p.S/Get too often" in caught.value.detail
    now[0] += 0.5
    count("worker one", "/p.S/Get")
    with pytest.raises(CounterfoilError):
        count("worker one", "/p.S/Get")


@pytest.mark.parametrize("code", [Code.OVERLOADED, Code.QUOTA])
@pytest.mark.parametrize(("given", "told"), [(None, None), (2.5, 2.5), (0.2, 0.2)])
def test_every_refusal_for_want_of_room_or_quota_says_when_to_try_again(code, given, told):
    error = CounterfoilError(code, "too often", retry_after_s=given)
    expected = code.value.retry_s if told is None else told
    assert expected is not None
    found = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(found) for detail in status_of(error, "here").details)
    assert found.retry_delay.ToNanoseconds() / 1e9 == expected
    _, headers, _ = to_problem(error)
    assert int(headers["retry-after"]) >= expected  # whole seconds, and never too early
    assert int(headers["retry-after"]) < expected + 1.5
