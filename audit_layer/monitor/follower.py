"""Follows the checkpoints of one log and recomputes every entry between them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

from audit_layer.monitor import core
from audit_layer.monitor.core import Relation, Verified
from audit_layer.monitor.findings import FoundError
from audit_layer.monitor.store import MonitorStore
from audit_layer.monitor.walk import Walk, damaged, missing
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import LogPolicy, Witnessed
from shared.translog.prefix import roots_of
from shared.translog.published import OnDemand, PublishedLog
from shared.translog.tiles import Tile, TileReader, right_edge

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""(entries recomputed, entries of the checkpoint) while catching up."""


class Follower:
    """One log, its log policy, and how far it is verified. One step at a time."""

    def __init__(
        self,
        client: PublishedLog,
        store: MonitorStore,
        policy: LogPolicy,
        *,
        from_now: bool = False,
        progress: Progress = lambda _done, _target: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """With `from_now`, the entries before the first checkpoint are accepted as they are."""
        self._client = client
        self._store = store
        self._policy = policy
        self._from_now = from_now
        self._progress = progress
        self._clock = clock

    async def step(self) -> Verified:
        """Look at the newest checkpoint; return the verified state, which it may have advanced.

        Raises FoundError for what is wrong with it, and UNAVAILABLE when the log does not answer now.
        Either leaves the verified state as it was.
        """
        held = self._store.verified()
        shown = core.read_checkpoint(await self._fetch_checkpoint(held), self._policy, held)
        relation = core.relate(held, shown.checkpoint)
        if held is not None and relation is Relation.FORKED:
            raise FoundError(core.fork(held, shown))
        if held is not None and relation is Relation.SMALLER:
            await self._refuse_smaller(held, shown)
        if held is not None and relation is Relation.SAME:
            edge = held.edge
        elif held is None and self._from_now:
            edge = await self._trusted_edge(shown)
        else:
            edge = await self._recompute(held, shown)
        new = core.verified(
            shown,
            edge,
            threshold=self._policy.threshold,
            now_s=int(self._clock()),
            held=held if relation is Relation.SAME else None,
        )
        if held is None or new.quorum_time > held.quorum_time or relation is Relation.GROWN:
            await self._store.advance(new)
            return new
        return held

    async def tile(self, tile: Tile) -> bytes:
        """Return a file's bytes; a finding when it is missing or cannot be right."""
        try:
            return await self._client.tile(tile)
        except CounterfoilError as error:
            size = core.size_of(self._store.verified())
            if error.code is Code.NOT_FOUND:
                raise FoundError(missing(tile, size)) from error
            if error.code is Code.MALFORMED:
                raise FoundError(damaged(tile, error.detail, size)) from error
            raise

    async def _fetch_checkpoint(self, held: Verified | None) -> bytes:
        try:
            return await self._client.checkpoint()
        except CounterfoilError as error:
            if error.code is Code.MALFORMED or (error.code is Code.NOT_FOUND and held is not None):
                raise FoundError(core.no_checkpoint(held, error.detail)) from error
            if error.code is Code.NOT_FOUND:
                raise CounterfoilError(
                    Code.UNAVAILABLE, "the log has published no checkpoint yet"
                ) from error
            raise

    async def _refuse_smaller(self, held: Verified, shown: Witnessed) -> NoReturn:
        """Tell a rollback from a fork: did the verified tree grow from the smaller tree?"""
        nodes = await self._parting(shown.checkpoint, held.checkpoint)
        raise FoundError(
            core.rollback(held, shown) if nodes is None else core.fork(held, shown, nodes)
        )

    async def _trusted_edge(self, shown: Witnessed) -> dict[int, bytes]:
        """Return the edge of a checkpoint's tree as its tiles have it; they must lead to its root."""
        size = shown.checkpoint.size
        edge = {tile.level: data for tile, data in await self._fetch(right_edge(size))}
        if Walk(size, edge).root() != shown.checkpoint.root:
            raise FoundError(core.root_mismatch(None, shown))
        return edge

    async def _recompute(self, held: Verified | None, shown: Witnessed) -> dict[int, bytes]:
        """Return the edge at a larger checkpoint after recomputing every entry up to it."""
        try:
            return await self._walk(held, shown)
        except FoundError:
            await self._store.drop_progress()
            if held is not None and held.checkpoint.size:
                # What looks like damage is a fork if the log serves all of the other tree.
                nodes = await self._parting(held.checkpoint, shown.checkpoint)
                if nodes is not None:
                    raise FoundError(core.fork(held, shown, nodes)) from None
            raise

    async def _walk(self, held: Verified | None, shown: Witnessed) -> dict[int, bytes]:
        target = shown.checkpoint.size
        kept = self._store.progress()
        if kept is not None and core.size_of(held) < kept[0] <= target:
            walk = Walk(*kept)
            try:
                return await self._to_root(walk, held, shown)
            except FoundError:  # what was served before the interruption may be at fault
                await self._store.drop_progress()
        walk = Walk(held.checkpoint.size, held.edge) if held else Walk()
        return await self._to_root(walk, held, shown)

    async def _to_root(
        self, walk: Walk, held: Verified | None, shown: Witnessed
    ) -> dict[int, bytes]:
        target = shown.checkpoint.size
        while bundles := walk.bundles(target):
            served = await self._fetch(bundles)
            await self._compare(walk.take(served), held)
            self._progress(walk.size, target)
            if walk.size < target:
                await self._store.keep_progress(walk.size, walk.edge)
        await self._compare(walk.partials(), held)
        if walk.root() != shown.checkpoint.root:
            raise FoundError(core.root_mismatch(held, shown))
        return walk.edge

    async def _fetch(self, tiles: Sequence[Tile]) -> list[tuple[Tile, bytes]]:
        return list(zip(tiles, await _all([self.tile(tile) for tile in tiles]), strict=True))

    async def _compare(self, expected: Sequence[tuple[Tile, bytes]], held: Verified | None) -> None:
        """Raise a finding for the first tile that is served with other bytes."""
        served = await self._fetch([tile for tile, _ in expected])
        for (tile, right), (_, data) in zip(expected, served, strict=True):
            if data != right:
                reason = "it is not the hashes of its entries"
                raise FoundError(damaged(tile, reason, core.size_of(held)))

    async def _parting(self, earlier: Checkpoint, later: Checkpoint) -> dict[str, str] | None:
        """Return subtrees that prove that the later checkpoint's tree does not grow from the earlier one.

        None when what is served proves no such thing: it does grow, or the tiles are not that tree.
        """
        try:
            first, second, nodes = await OnDemand(self.tile).compute(
                lambda fetch: roots_of(earlier.size, later.size, TileReader(later.size, fetch))
            )
        except FoundError:
            return None
        return nodes if second == later.root and first != earlier.root else None


async def _all(calls: Sequence[Awaitable[T]]) -> list[T]:
    """Return all results; once all have ended, raise the first failure in order."""
    results: list[T] = []
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
