"""Sends one message to a webhook: HTTPS, authenticated by HMAC-SHA-256 over the exact bytes of the body.

The header is `X-Counterfoil-Signature-256: sha256=<hex>`, built like GitHub's `X-Hub-Signature-256`, so that receivers can use
the code that they have. `X-Counterfoil-Delivery` is the message's id: the same in every attempt.
"""

import asyncio
import hmac
import ssl
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

import httpx
from pydantic import Field, field_validator

from shared.runtime.certificates import how_it_failed
from shared.runtime.config import Settings, read_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.tls import client_context

SIGNATURE: Final = "X-Counterfoil-Signature-256"
DELIVERY: Final = "X-Counterfoil-Delivery"
MIN_SECRET: Final = 16


class WebhookSettings(Settings):
    """A webhook of the configuration's writer's own choice, who decides what it may reach."""

    url: str
    """https:// only. It is called as it is; a redirect is not followed."""
    secret_file: Path
    """Text of at least 16 characters, under which every message is authenticated (HMAC-SHA-256)."""
    ca_file: Path | None = None
    """The authority of the receiver's certificate (PEM); the system's own authorities if it is not named."""
    timeout_seconds: float = Field(default=10, gt=0, le=60)

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("must be https://host/…")
        return value


class Receiver(Protocol):
    """Takes messages."""

    def deliver(self, delivery: str, body: bytes) -> str | None:
        """Send a message; return None once it was accepted, otherwise what went wrong."""
        ...


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver over HTTPS."""

    url: str
    secret: bytes = field(repr=False)
    context: ssl.SSLContext = field(repr=False)
    timeout_s: float = 10.0

    @classmethod
    def of(cls, settings: WebhookSettings) -> Self:
        """Return the configured webhook; CONFIGURATION where a file cannot be used."""
        secret = read_secret(settings.secret_file).encode()
        if len(secret) < MIN_SECRET:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{settings.secret_file} has fewer than {MIN_SECRET} characters",
                remedy="Write a random text into it, such as `openssl rand -hex 32` prints.",
            )
        if settings.ca_file is None:
            context = ssl.create_default_context()
        else:
            context = client_context(settings.ca_file)
        return cls(settings.url, secret, context, settings.timeout_seconds)

    def deliver(self, delivery: str, body: bytes) -> str | None:
        """Send a message from a thread without an event loop; otherwise as `send`."""
        return asyncio.run(self.send(delivery, body))

    async def send(self, delivery: str, body: bytes) -> str | None:
        """Send a message; any answer of 2xx accepts it. The answer's body is not read."""
        headers = {
            "content-type": "application/json",
            "user-agent": "counterfoil",
            DELIVERY: delivery,
            SIGNATURE: f"sha256={signature(self.secret, body)}",
        }
        try:
            status = await self._posted(body, headers)
        except TimeoutError:
            return f"did not answer within {self.timeout_s:g} s"
        except httpx.HTTPError as error:
            return how_it_failed(error)
        return None if httpx.codes.is_success(status) else f"answered {status}"

    async def _posted(self, body: bytes, headers: dict[str, str]) -> int:
        """Return the status. The time is for the whole exchange, so that a slow answer cannot hold up the worker."""
        async with (
            asyncio.timeout(self.timeout_s),
            httpx.AsyncClient(verify=self.context, timeout=None, trust_env=False) as client,  # noqa: S113  # the line above
            client.stream("POST", self.url, content=body, headers=headers) as answer,
        ):
            return answer.status_code


def signature(secret: bytes, body: bytes) -> str:
    """Return the HMAC-SHA-256 (RFC 2104) of a body, in hexadecimal."""
    return hmac.new(secret, body, sha256).hexdigest()
