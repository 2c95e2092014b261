"""The client: chooses a node, seals, orders, streams, checks, archives; retries elsewhere if a node is unavailable.
A retry is a fresh envelope for another node and the next attempt under the same order number; it goes on from what was
delivered if the policy or the call says so. If a response
fails the checks, there is no silent retry: the error is raised, and the response is kept.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self, Unpack, overload

import grpc

from execution_layer.client.archive import Archive, State
from execution_layer.client.attempt import Attempt
from execution_layer.client.auditing import Auditing
from execution_layer.client.calls import LIES, Patience
from execution_layer.client.cancelling import Cancellations
from execution_layer.client.closing import Closing
from execution_layer.client.completion import Completion
from execution_layer.client.custodian_choice import choose_custodians
from execution_layer.client.directory import Directory
from execution_layer.client.entries import NodeEntry
from execution_layer.client.envelopes import Envelopes
from execution_layer.client.fetching import fetch_files, keep_files
from execution_layer.client.going_on import GoingOn
from execution_layer.client.log_memory import AuditLog, LogMemory
from execution_layer.client.mirrors import Mirror
from execution_layer.client.naming import named, told_by
from execution_layer.client.node_choice import NodeChoice
from execution_layer.client.options import (
    Options,
    Turn,
    candidates_of,
    continues_of,
    request_body,
    slots_of,
    tags_of,
    timeout_of,
)
from execution_layer.client.own_keys import learn_identities, own_keys
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.prices import fetch_cards
from execution_layer.client.proofs import LATER, HandedIn, ProofReport, Proofs
from execution_layer.client.reading import ModelText, Texts, fetched_folder
from execution_layer.client.reopening import reopened
from execution_layer.client.tag_key import Tagger
from execution_layer.client.views import compare_view
from execution_layer.client.wanted import OnRetry, OnText, Terms, Wanted
from shared.codec.ids import parse_hex32
from shared.codec.moment import now_ms
from shared.envelope.body import Audit, AuditPolicy
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import secure_aio_channel
from shared.runtime.journal import Unwritable
from shared.statements.keys import KeyBundle
from shared.statements.ratecards import RateCard
from shared.statements.request import SamplingSettings

ELSEWHERE: Final = frozenset(
    {
        Code.UNAVAILABLE,
        Code.DRAINING,
        Code.OVERLOADED,
        Code.QUOTA,
        Code.STALE_KEY,
        Code.INTERNAL,
        Code.CORRUPT,
    }
)
"""Errors that another node, or the same one later, might not have."""
MAX_ANSWERS: Final = 128
LOOK_UP_S: Final = 2.0
"""How long a broken stream waits for the directory to say where its node is now."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class AsyncCounterfoilClient:
    """Safe for concurrent calls within one event loop. Use it as a context manager."""

    def __init__(self, policy: ClientPolicy) -> None:
        self._policy = policy
        self.custodians = choose_custodians(policy)
        self._terms = Terms(
            tenant=policy.tenant,
            key=policy.tenant_key(),
            custodians=tuple(custodian.public_key() for custodian in self.custodians.kept),
            threshold=policy.threshold,
            policy=AuditPolicy(Audit(policy.audit)),
            expiry_ms=1000 * policy.expiry_s,
        )
        self._log = policy.log.policy()
        self._texts = Texts(policy)
        self._tagger = Tagger(policy)
        self.archive = Archive(policy.archive)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._node_choice = NodeChoice()
        self._cancellations = Cancellations()
        self._closing: Closing | None = None
        self._directory: Directory | None = None
        self._seen: LogMemory | None = None
        self._mirrors = tuple(Mirror(url, policy.ca_file) for url in policy.mirrors)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close channels and archive; a cancellation, or a refusal for the log, that is under way has up to 2 s to arrive."""
        await self._cancellations.close()
        if self._closing is not None:
            await self._closing.close()
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        await asyncio.to_thread(self.archive.close)

    @overload
    async def generate(
        self,
        messages: Sequence[Turn] | None = None,
        settings: SamplingSettings | None = None,
        *,
        n: None = None,
        **options: Unpack[Options],
    ) -> Completion: ...

    @overload
    async def generate(
        self,
        messages: Sequence[Turn] | None = None,
        settings: SamplingSettings | None = None,
        *,
        n: int,
        **options: Unpack[Options],
    ) -> tuple[Completion, ...]: ...

    async def generate(
        self,
        messages: Sequence[Turn] | None = None,
        settings: SamplingSettings | None = None,
        *,
        n: int | None = None,
        **options: Unpack[Options],
    ) -> Completion | tuple[Completion, ...]:
        """Run one request and return its answer once its receipt has been checked.

        Pass exactly one of `messages` (each a `Message` or a mapping of role and content) and the option `prompt`;
        set sampling by `settings` or by individual `Options`. Unknown options are refused. With `n`, request n
        answers concurrently and return them in order: each is a request of its own (order, receipt, proof, bill)
        with `choice` 0 … n−1, all with the caller's seed if there is one. If one of them fails, the others are
        cancelled and the error is raised.

        Who cancels the call gives up: the node is told by a signed cancellation, and what was delivered until then is
        paid for. Where this client gives up on a node by itself (the call's timeout, a request that is not accepted in
        time, a stream that cannot be believed), the cancellation is sent in the background.
        """
        wanted = self._wanted(messages, settings, options)
        if self._closing is None:  # what an earlier process left
            self._hand_in()
        until = time.monotonic() + timeout_of(options, self._policy.timeout_s)
        node, on_retry = options.get("node"), options.get("on_retry")
        if n is None:
            return await self._with_retries(wanted, node, until, on_retry)
        if type(n) is not int or not 1 <= n <= MAX_ANSWERS:
            raise CounterfoilError(Code.INVALID_ARGUMENT, f"n must be between 1 and {MAX_ANSWERS}")
        if wanted.on_text is not None:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "on_text cannot tell several answers apart; use on_text_of"
            )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._with_retries(
                            wanted.for_choice(choice, options.get("on_text_of")),
                            node,
                            until,
                            on_retry,
                        )
                    )
                    for choice in range(n)
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return tuple(task.result() for task in tasks)

    def _wanted(
        self,
        messages: Sequence[Turn] | None,
        settings: SamplingSettings | None,
        options: Options,
    ) -> Wanted:
        body = request_body(messages, settings, options)
        body = replace(body, slots=slots_of(options, self._policy.slots_ms, body.settings))
        model_root = self._model_root(options.get("model"))
        tags = tags_of(options)
        return Wanted(
            body=body,
            model_root=model_root,
            tags=tags,
            cost_centre=self._tagger.blinded(tags),
            on_text=options.get("on_text"),
            model_text=self._texts.of(model_root),
            on_pause=options.get("on_pause"),
            continues=continues_of(options, self._policy.failover),
            on_choice=options.get("on_choice"),
            candidates=candidates_of(options, self._policy.candidates),
            canary=options.get("canary") is True,
        )

    async def nodes(self, model: str | None = None) -> list[NodeEntry]:
        """Return the usable nodes for a model, according to the directory and the policy."""
        return await self._nodes(self._model_root(model))

    async def offers(self, model: str | None = None) -> tuple[list[NodeEntry], Sequence[str]]:
        """Return every node for a model that the policy accepts (whole nodes, heads without their stages, and stages), and why
        others were refused.
        """
        directory = self._listing()
        return await directory.offers(self._model_root(model)), directory.refused

    def text_of(self, model: str | None = None) -> ModelText | None:
        """Return a model's tokenizer, if this client has it."""
        return self._texts.of(self._model_root(model))

    async def fetch_tokenizer(self, model: str | None = None, node: str | None = None) -> Path:
        """Fetch a model's tokenizer files from a node, check them against the model root, and use them from now on.
        Returns their folder. If no node has them, the last node's error is raised.
        """
        root = self._model_root(model)
        failed: CounterfoilError | None = None
        for found in named(await self._nodes(root), node, self._refused()):
            try:
                files = await fetch_files(self._channel(found.bundle.endpoint), root)
            except CounterfoilError as error:
                failed = told_by(found.name, error)
                continue
            folder = fetched_folder(self._policy, root)
            await asyncio.to_thread(keep_files, folder, files)
            return folder
        assert failed is not None
        raise failed

    async def upgrade_proofs(self, timeout_s: float = 0.0) -> ProofReport:
        """Fetch and verify a witnessed proof for every receipt without one; try for `timeout_s` seconds. Refusals and audit
        requests that the log still lacks are handed in. What the log has of the keys of those who signed is remembered, so that
        others can be shown it.
        """
        report = await self._proofs().upgrade(timeout_s)
        try:
            await self._auditing().hand_in()
            await learn_identities(self._policy, self._channel(self._policy.audit_target))
        except CounterfoilError as error:
            if error.code not in LATER:
                raise
        return report

    async def hand_in_missing(self, after_s: float = 60.0) -> int:
        """Submit to the log the receipts and refusals that are older than `after_s` and have no proof; return how many."""
        return await self._proofs().hand_in(after_s)

    async def hand_in_accused(self) -> list[HandedIn]:
        """Submit what nodes signed and contradicted, so that the log convicts them; return what the log said of each."""
        return await self._proofs().hand_in_accused()

    async def audit(self, which: str) -> int:
        """Ask for the audit of an answer, with every stage's part of it, whatever the draw says, and of whatever else is still to
        be asked for.

        `which` is the entry of its receipt or order, or that of a part, or `latest`. Returns how many audit requests the log has
        taken. CONFLICT if there is no receipt.
        """
        kept = self.archive.whole(which)
        if kept.receipt_entry is None:
            raise CounterfoilError(
                Code.CONFLICT, "there is no receipt of this attempt that could be audited"
            )
        await self.archive.want_audit(kept.id)
        return await self._auditing().hand_in()

    async def deposit_evidence(self, receipt_entry: bytes) -> None:
        """Deposit the ciphertexts of one request with the audit layer, if its node withholds them."""
        await self._proofs().deposit(receipt_entry)

    async def compare_view(self, file: Path) -> dict[str, int]:
        """Compare another client's exported view with ours; FORK, with the evidence kept, if we were shown two histories."""
        return await compare_view(file, self._memory(), self.archive, self._log)

    async def resume(
        self,
        which: str,
        *,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        on_pause: OnRetry | None = None,
    ) -> Completion:
        """Return an answer that was cut off when a client died or gave up, once its rest has come and all of it is checked.

        `which` is the entry of its order, or `latest`; `archive.unfinished()` lists what there is. `on_text` gets the
        whole text, from its beginning. NOT_FOUND if the node has no more of it, CONFLICT if nothing is left to resume.
        """
        kept = self.archive.find(which)
        attempt, bundle = reopened(
            self.archive,
            kept,
            self._terms.key,
            own_keys(self._policy),
            self._texts,
            on_text,
            on_pause,
        )
        limit_s = timeout_of({"timeout_s": timeout_s}, self._policy.timeout_s)
        try:
            return await attempt.resume(limit_s, self._patience(attempt, bundle))
        except CounterfoilError as error:
            if self.archive.get(kept.id).state is State.REFUSED:
                await self.archive.give_back(kept.number)
            raise told_by(kept.node, error) from error
        finally:
            self._hand_in()

    def _patience(self, attempt: Attempt, bundle: KeyBundle) -> Patience:
        async def reach(elsewhere: bool) -> grpc.aio.Channel:
            endpoint = bundle.endpoint
            if elsewhere:  # it may have come back at another address
                with contextlib.suppress(CounterfoilError, TimeoutError):
                    async with asyncio.timeout(LOOK_UP_S):
                        nodes = await self._nodes(bundle.model_roots[0], since=time.monotonic())
                    here = [node.bundle.endpoint for node in nodes if node.name == bundle.issuer]
                    endpoint = (here or [endpoint])[0]
            return self._channel(endpoint)

        return Patience(self._policy.resume_patience_s, reach, attempt.paused)

    async def _with_retries(
        self, wanted: Wanted, name: str | None, until: float, on_retry: OnRetry | None
    ) -> Completion:
        given: list[int] = []
        try:
            return await self._attempts(wanted, name, until, on_retry, given)
        except BaseException:
            with contextlib.suppress(Unwritable):
                for number in given:
                    await self.archive.give_back(number)
            if given:
                self._hand_in()
            raise

    def _hand_in(self) -> None:
        """Hand in, in the background, the refusals that close numbers and the audit requests that are due."""
        if self._closing is None:
            self._closing = Closing(self._hand_in_due)
        self._closing.wake()

    async def _hand_in_due(self) -> int:
        refusals = await self._proofs().hand_in_refusals(now_ms())
        return refusals + await self._auditing().hand_in()

    def _auditing(self) -> Auditing:
        return Auditing(self.archive, self._proofs(), self._terms.tenant, self._terms.key)

    async def _attempts(
        self,
        wanted: Wanted,
        name: str | None,
        until: float,
        on_retry: OnRetry | None,
        given: list[int],
    ) -> Completion:
        """Try until a node answers; the order number, once assigned, is put into `given`."""
        going_on = GoingOn(wanted, os.urandom(32))
        tried: list[str] = []
        envelopes = Envelopes()
        pause_s, since, refreshed = FIRST_PAUSE_S, float("-inf"), False
        for left in reversed(range(self._policy.max_attempts)):
            usable = await self._nodes(wanted.model_root, since=since)
            chosen_at = time.monotonic()
            nodes = named(usable, name, self._refused())
            node = self._choose(nodes, tried)
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise CounterfoilError(Code.DEADLINE, "no node answered before the deadline")
            beside = self._beside(nodes, node, tried, wanted.candidates - 1)
            if wanted.on_choice is not None:
                wanted.on_choice([node, *beside], wanted)
            number = given[0] if given else None
            attempt = await self._prepare(
                node, beside, going_on.next(), number, remaining, envelopes
            )
            given[:] = [attempt.ordered.number]
            try:
                return going_on.complete(await self._run(attempt, node, remaining))
            except Unwritable:
                raise
            except CounterfoilError as error:
                elsewhere = error.code in ELSEWHERE or going_on.shortened(error)
                going_on.take(attempt)
                if not elsewhere or not left:
                    raise told_by(node.name, error) from error
                if on_retry is not None:
                    on_retry(node.name, error)
                hint = error.retry_after_s
                if error.code is Code.UNAVAILABLE or (
                    error.code is Code.STALE_KEY and not refreshed
                ):
                    since = chosen_at  # a listing that was read since then is shared
                    refreshed = refreshed or error.code is Code.STALE_KEY
            tried.append(node.name)
            if {item.name for item in nodes} <= set(tried):
                await asyncio.sleep(min(hint or pause_s, max(0.0, until - time.monotonic())))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    async def _prepare(
        self,
        node: NodeEntry,
        beside: Sequence[NodeEntry],
        wanted: Wanted,
        number: int | None,
        timeout_s: float,
        envelopes: Envelopes,
    ) -> Attempt:
        """Seal and order. The node counts as busy from now on, so that requests that are made at once go to different nodes."""
        self._node_choice.begin(node.name)
        try:
            return await Attempt.prepare(
                self.archive,
                self._terms,
                node,
                wanted,
                rate_cards=[self._policy.rate_card(place.name) for place in node.places],
                number=number,
                timeout_s=timeout_s,
                envelopes=envelopes,
                beside=beside,
            )
        except BaseException:
            self._node_choice.end(node.name)
            raise

    async def _run(self, attempt: Attempt, node: NodeEntry, timeout_s: float) -> Completion:
        """Run an attempt that was prepared; then its node is no longer busy with it."""
        began = time.monotonic()
        try:
            completion = await attempt.run(
                self._channel(node.bundle.endpoint),
                timeout_s,
                self._cancellations,
                self._policy.accept_timeout_s,
                self._patience(attempt, node.bundle),
            )
        except Unwritable:
            raise  # our own archive
        except CounterfoilError as error:
            if error.code in (ELSEWHERE | LIES) - {Code.STALE_KEY}:
                self._node_choice.failed(node.name, error, time.monotonic())
            elif error.code is Code.DEADLINE and not attempt.frames:
                now = time.monotonic()
                self._node_choice.waited(node.name, now - began, now)
            raise
        finally:
            self._node_choice.end(node.name)
        self._node_choice.answered(node.name)
        if self._terms.policy.audit is Audit.ALWAYS:
            self._hand_in()
        if completion.timings.first_token_ms is not None:
            waited_s = completion.timings.first_token_ms / 1000
            self._node_choice.waited(node.name, waited_s, time.monotonic())
        return completion

    def _choose(self, nodes: Sequence[NodeEntry], tried: Sequence[str]) -> NodeEntry:
        by_name = {node.name: node for node in nodes}
        return by_name[self._node_choice.choose(list(by_name), tried, time.monotonic())]

    def _beside(
        self, nodes: Sequence[NodeEntry], node: NodeEntry, tried: Sequence[str], most: int
    ) -> list[NodeEntry]:
        """Return the nodes that would be tried next, up to `most`: those that may read the request too. A request for a chain has
        its head as the only candidate.
        """
        found: list[NodeEntry] = []
        if node.stages:
            return found
        others = [one for one in nodes if not one.stages and one.name != node.name]
        left = [one for one in others if one.name not in tried]
        while left and len(found) < most:
            found.append(self._choose(left, tried))
            left.remove(found[-1])
        return found

    async def _nodes(self, model_root: bytes, *, since: float = float("-inf")) -> list[NodeEntry]:
        return await self._listing().nodes(model_root, since=since)

    def _listing(self) -> Directory:
        if self._directory is None:
            channel = self._channel(self._policy.audit_target)
            self._directory = Directory(
                self._policy, self.archive, self._memory(), channel, self._mirrors
            )
        return self._directory

    async def rate_cards(self) -> dict[str, RateCard]:
        """Return the rate cards that orders name, by the policy's names for them; those that cannot be had are not there."""
        try:
            return await fetch_cards(self._policy, self._channel(self._policy.audit_target))
        except CounterfoilError:
            return {}

    def _proofs(self) -> Proofs:
        channel = self._channel(self._policy.audit_target)
        return Proofs(self.archive, self._memory(), channel, self._log)

    def _refused(self) -> Sequence[str]:
        return () if self._directory is None else self._directory.refused

    def _memory(self) -> LogMemory:
        if self._seen is None:
            log = AuditLog(self._channel(self._policy.audit_target))
            self._seen = LogMemory(self.archive, self._log, (log, *self._mirrors))
        return self._seen

    def _channel(self, target: str) -> grpc.aio.Channel:
        if target not in self._channels:
            self._channels[target] = secure_aio_channel(target, self._policy.ca_file)
        return self._channels[target]

    def _model_root(self, model: str | None) -> bytes:
        chosen = model or self._policy.model_root
        if chosen is None:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT, "no model is given", remedy="Set model_root in client.toml."
            )
        return parse_hex32(chosen, "the model root")
