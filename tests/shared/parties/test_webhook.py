"""A message is sent over HTTPS only, authenticated, to the configured place and no other."""

import hmac
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.parties.webhook import Webhook, WebhookSettings
from shared.runtime.config import load
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import create_private
from tests.webhook_receiver import Received, https_receiver

SECRET = "0123456789abcdef"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Received]:
    with https_receiver(tmp_path) as received:
        yield received


def webhook(folder: Path, url: str, ca: Path | None, secret: str = SECRET) -> Webhook:
    path = folder / "secret"
    path.unlink(missing_ok=True)
    create_private(path, f"{secret}\n".encode())
    return Webhook.of(WebhookSettings(url=url, secret_file=path, ca_file=ca, timeout_seconds=5))


def test_a_receiver_can_check_the_exact_bytes(receiver: Received, tmp_path: Path):
    body = b'{"a":"\xc3\xbf"}'
    assert webhook(tmp_path, f"{receiver.url}/hook?a=b", receiver.ca).deliver("id-1", body) is None
    ((method, headers, came),) = receiver.came
    assert (method, came) == ("POST", body)
    assert headers["x-counterfoil-delivery"] == "id-1"
    expected = hmac.new(SECRET.encode(), came, "sha256").hexdigest()
    assert headers["x-counterfoil-signature-256"] == f"sha256={expected}"
    assert headers["content-type"] == "application/json"


def test_a_redirect_is_not_followed_and_an_error_is_no_acceptance(
    receiver: Received, tmp_path: Path
):
    hook = webhook(tmp_path, receiver.url, receiver.ca)
    for status in (301, 302, 307, 308, 404, 500):
        receiver.status = status
        assert hook.deliver("id", b"{}") == f"answered {status}"
    assert {method for method, _, _ in receiver.came} == {"POST"}
    assert len(receiver.came) == 6


def test_a_receiver_that_its_authority_did_not_certify_gets_nothing(
    receiver: Received, tmp_path: Path
):
    assert "certificate" in (webhook(tmp_path, receiver.url, None).deliver("id", b"{}") or "")
    assert receiver.came == []


def test_a_receiver_that_is_not_there_is_reported(tmp_path: Path):
    with https_receiver(tmp_path) as gone:
        pass
    assert webhook(tmp_path, gone.url, gone.ca).deliver("id", b"{}")


def test_an_answer_that_never_ends_ends_with_the_time_for_it(receiver: Received, tmp_path: Path):
    """Each of its bytes comes in time, the whole does not."""
    receiver.slow = threading.Event()
    hook = replace(webhook(tmp_path, receiver.url, receiver.ca), timeout_s=0.5)
    assert hook.deliver("id", b"{}") == "did not answer within 0.5 s"
    receiver.slow.set()
    assert hook.deliver("id", b"{}") is None


def test_an_answer_of_any_length_is_not_read(receiver: Received, tmp_path: Path):
    receiver.endless, receiver.status = True, 200
    assert webhook(tmp_path, receiver.url, receiver.ca).deliver("id", b"{}") is None


def test_only_https_and_a_secret_of_some_length_are_taken(tmp_path: Path):
    for url in ("http://host/a", "https:///a", "file:///etc/passwd", "host/a", ""):
        path = tmp_path / "worker.toml"
        path.write_text(f'url = "{url}"\nsecret_file = "x"\n')
        with pytest.raises(CounterfoilError, match="https") as caught:
            load(WebhookSettings, path)
        assert caught.value.code is Code.CONFIGURATION
    with pytest.raises(CounterfoilError, match="16"):
        webhook(tmp_path, "https://host", None, "short")
