"""One request of an application: what the client is asked for, and what of it belongs to whose key."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from execution_layer.client.archive import Transcript
from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.completion import Completion
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.proofs import LATER
from execution_layer.client.show import brief
from execution_layer.client.verify import export
from execution_layer.client.wanted import OnTextOf
from execution_layer.proxy.api_keys import KEY_TAG, ApiKey
from execution_layer.proxy.asking import Asked
from execution_layer.proxy.settings import ProxySettings
from execution_layer.proxy.tokens import Spell
from shared.codec.ids import parse_hex32
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.rates import Places


class Service:
    """Belongs to one event loop."""

    def __init__(
        self, client: AsyncCounterfoilClient, policy: ClientPolicy, settings: ProxySettings
    ) -> None:
        self._client = client
        self._policy = policy
        self._places = Places(settings.answers, settings.answers_per_key)
        self._proving = asyncio.Lock()
        self.models: Mapping[str, str] = settings.models

    def model_root(self, name: str) -> str:
        """Return the root of a model by its name; UNKNOWN_MODEL lists the names."""
        if name not in self.models:
            known = ", ".join(sorted(self.models))
            raise CounterfoilError(
                Code.UNKNOWN_MODEL,
                f"there is no model {name[:128]!r} here; there is {known}",
                metadata={"param": "model"},
            )
        return self.models[name]

    @contextlib.contextmanager
    def room(self, key: ApiKey, asked: Asked) -> Iterator[None]:
        """Take the places of a request's answers while it lasts; OVERLOADED if there are not enough."""
        if not self._places.take(key.id, asked.n):
            raise CounterfoilError(
                Code.OVERLOADED, "too many answers are under way, with this key or in total"
            )
        try:
            yield
        finally:
            self._places.give(key.id, asked.n)

    def spell(self, asked: Asked) -> Spell | None:
        """Return what spells tokens, if the request needs it; UNSUPPORTED if this client has no tokenizer."""
        if asked.settings.logprobs is None:
            return None
        text = self._client.text_of(self.model_root(asked.model))
        if text is None:
            raise CounterfoilError(
                Code.UNSUPPORTED,
                "logprobs need the model's tokenizer, which this client does not have",
                remedy="Run `counterfoil client tokenizer fetch`.",
                metadata={"param": "logprobs"},
            )
        return lambda token: text.tokenizer.decode([token])

    async def answer(
        self, asked: Asked, key: ApiKey, on_text_of: OnTextOf | None
    ) -> tuple[Completion, ...]:
        """Return a request's answers once all their receipts were checked; until then `on_text_of` hears their text.

        What has been heard cannot be taken back, so a stream goes on elsewhere from what was delivered, whatever the policy
        says of answers that are not streamed. Cancelling it cancels the orders.
        """
        return await self._client.generate(
            asked.messages or None,
            asked.settings,
            n=asked.n,
            prompt=asked.prompt,
            seed=asked.seed,
            tags=key.tags,
            model=self.model_root(asked.model),
            on_text_of=on_text_of,
            failover=None if on_text_of is None else "continue",
        )

    async def receipt(self, key: ApiKey, entry: str) -> dict[str, Any]:
        """Return a receipt that answers an order of this key, with the log's proof and a bundle if there is one yet; NOT_FOUND for
        everybody else's, as for none at all.
        """
        wanted = parse_hex32(entry, "an entry")
        kept = self._of(key, wanted)
        if kept.proof is None:
            await self.prove()
            kept = self._of(key, wanted)
        bundle = None
        if kept.proof is not None:
            archive, policy = self._client.archive, self._policy
            bundle = await asyncio.to_thread(lambda: export(archive, kept, policy).members())
        assert kept.receipt is not None
        return {
            "object": "counterfoil.receipt",
            **brief(kept),
            "statement": kept.receipt.hex(),
            "proof": kept.proof,
            "bundle": bundle,
        }

    async def prove(self) -> None:
        """Fetch the proofs of receipts that have none, if the log can be had; one such round at a time."""
        if self._proving.locked():
            async with self._proving:
                return
        async with self._proving:
            try:
                await self._client.upgrade_proofs()
                await self._client.hand_in_missing(after_s=120.0)
            except CounterfoilError as error:
                if error.code not in LATER:
                    raise

    def _of(self, key: ApiKey, entry: bytes) -> Transcript:
        with contextlib.suppress(CounterfoilError):
            kept = self._client.archive.by_entry(entry)
            if kept.receipt_entry == entry and (kept.tags or {}).get(KEY_TAG) == key.id:
                return kept
        raise CounterfoilError(Code.NOT_FOUND, "no order of this API key has such a receipt")
