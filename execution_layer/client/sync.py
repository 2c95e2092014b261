"""The blocking client: the same client, in an event loop of its own on a thread."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar, Unpack, overload

from execution_layer.client.archive import Archive
from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.completion import Completion
from execution_layer.client.options import Options, Turn
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.proofs import ProofReport
from execution_layer.client.wanted import OnRetry, OnText
from shared.statements.request import SamplingSettings

T = TypeVar("T")
GIVING_UP_S: Final = 5.0
"""How long an interrupted call may take to tell its node and to write its record."""


class CounterfoilClient:
    """For applications without asyncio; thread-safe. Use it as a context manager."""

    def __init__(self, policy: ClientPolicy) -> None:
        self._client = AsyncCounterfoilClient(policy)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="counterfoil client", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def archive(self) -> Archive:
        """The client's records."""
        return self._client.archive

    def close(self) -> None:
        """Close channels, archive and loop."""
        if self._loop.is_closed():
            return
        self._await(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @overload
    def generate(
        self,
        messages: Sequence[Turn] | None = None,
        settings: SamplingSettings | None = None,
        *,
        n: None = None,
        **options: Unpack[Options],
    ) -> Completion: ...

    @overload
    def generate(
        self,
        messages: Sequence[Turn] | None = None,
        settings: SamplingSettings | None = None,
        *,
        n: int,
        **options: Unpack[Options],
    ) -> tuple[Completion, ...]: ...

    def generate(
        self,
        messages: Sequence[Turn] | None = None,
        settings: SamplingSettings | None = None,
        *,
        n: int | None = None,
        **options: Unpack[Options],
    ) -> Completion | tuple[Completion, ...]:
        """Run one request as `AsyncCounterfoilClient.generate` does; callbacks run in the client's thread."""
        if n is None:
            return self._await(self._client.generate(messages, settings, **options))
        return self._await(self._client.generate(messages, settings, n=n, **options))

    def resume(
        self,
        which: str,
        *,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        on_pause: OnRetry | None = None,
    ) -> Completion:
        """Finish an answer that was cut off, as `AsyncCounterfoilClient.resume` does."""
        return self._await(
            self._client.resume(which, timeout_s=timeout_s, on_text=on_text, on_pause=on_pause)
        )

    def fetch_tokenizer(self, model: str | None = None, node: str | None = None) -> Path:
        """Fetch a model's tokenizer as `AsyncCounterfoilClient.fetch_tokenizer` does."""
        return self._await(self._client.fetch_tokenizer(model, node))

    def upgrade_proofs(self, timeout_s: float = 0.0) -> ProofReport:
        """Fetch and verify missing proofs."""
        return self._await(self._client.upgrade_proofs(timeout_s))

    def hand_in_missing(self, after_s: float = 60.0) -> int:
        """Submit receipts that the log lacks."""
        return self._await(self._client.hand_in_missing(after_s))

    def audit(self, which: str) -> int:
        """Ask for the audit of an answer, as `AsyncCounterfoilClient.audit` does."""
        return self._await(self._client.audit(which))

    def deposit_evidence(self, receipt_entry: bytes) -> None:
        """Deposit one request's ciphertexts."""
        self._await(self._client.deposit_evidence(receipt_entry))

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        ended = threading.Event()

        async def noticed() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(noticed(), self._loop)
        try:
            return future.result()
        except (
            BaseException
        ):  # Ctrl-C in the caller's thread: the client gives up too, and says so to the node
            future.cancel()
            ended.wait(GIVING_UP_S)
            raise
