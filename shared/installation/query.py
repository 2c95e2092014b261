"""A client of the audit server's HTTP query API, with a token, on the standard library alone."""

import asyncio
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.problems import from_problem
from shared.runtime.tls import client_context

PAGE = 1000
PATIENCE_S = 60.0
"""A server that died is back within this time."""


class Query:
    """Reads pages until there are no more."""

    def __init__(self, address: str, ca_file: Path, token_file: Path) -> None:
        self._url = f"https://{address}"
        self._context: ssl.SSLContext = client_context(ca_file)
        self._token = token_file.read_text(encoding="ascii").strip()

    async def all(self, path: str, *, after: int = -1) -> list[dict[str, Any]]:
        """Return all items of a paged resource after log index `after`."""
        items: list[dict[str, Any]] = []
        place: int | None = after
        while place is not None:
            page = await self.get(
                f"{path}?{urllib.parse.urlencode({'after': place, 'limit': PAGE})}"
            )
            items.extend(page["items"])
            place = page["next"]
        return items

    async def selecting(self, seconds: float) -> None:
        """Wait, up to so long, until the first epoch is open: what the log takes before that belongs to no epoch and is never
        drawn.
        """
        deadline = time.monotonic() + seconds
        while True:
            if await self.all("/v1/epochs") or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.2)

    async def get(self, path: str) -> Any:
        """Return one resource; UNAVAILABLE if the server does not answer for `PATIENCE_S`."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await asyncio.to_thread(self._get, path)
            except CounterfoilError as error:
                if not error.code.value.retryable or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(  # noqa: S310  # always https, see the constructor
            self._url + path, headers={"authorization": f"Bearer {self._token}"}
        )
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=10) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise from_problem(error.code, error.read(), "the audit server") from error
        except (OSError, ValueError) as error:
            raise CounterfoilError(
                Code.UNAVAILABLE, f"the audit server does not answer: {error}"
            ) from error
