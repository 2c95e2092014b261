"""A copy of a published log in a folder that any web server can serve: tiles, checkpoint, key directory.

Nothing is copied unchecked: every tile is recomputed from the entries below it, and nothing is shown before they lead to the
witnessed root. Files are written in an order in which a reader never finds one that refers to another that is missing.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from audit_layer.monitor.client import ApiClient
from audit_layer.monitor.findings import FoundError
from audit_layer.monitor.walk import Walk
from shared.codec.moment import now_ms
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import PUBLIC_FILE, PUBLIC_FOLDER, make_folder, write_result
from shared.runtime.reading import read_bounded
from shared.statements.cose import parse_statement
from shared.statements.identities import IdentityKey, IdentityKeyEnd
from shared.statements.keys import KeyBundle, Revocation
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import MAX_NOTE_BYTES
from shared.translog.policy import LogPolicy, Witnessed, verify_witnessed
from shared.translog.proofs import inclusion_proof, verify_inclusion
from shared.translog.published import OnDemand, PublishedLog
from shared.translog.tiles import Tile, TileReader, right_edge
from shared.translog.tree import leaf_hash
from shared.verification.directory_file import (
    MAX_DIRECTORY,
    MAX_STATEMENTS,
    PATH,
    DirectoryFile,
    Placed,
    parse_directory,
)

CHECKPOINT: Final = "checkpoint"
KINDS: Final = (KeyBundle.TYPE, Revocation.TYPE, IdentityKey.TYPE, IdentityKeyEnd.TYPE)
"""Types of public statements that the directory file holds."""
WIDTHS_KEPT: Final = 16
"""How many widths of one partial tile stay for readers of earlier checkpoints."""


class FolderFiles:
    """The copy's files, as `shared.translog.published.Files`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def get(self, path: str, limit: int) -> bytes:
        """Return a file of at most `limit` bytes; NOT_FOUND or MALFORMED."""
        data = await asyncio.to_thread(read_bounded, self.folder / path, limit, code=Code.NOT_FOUND)
        if len(data) > limit:
            raise CounterfoilError(Code.MALFORMED, f"{path} is longer than {limit} bytes")
        return data

    def put(self, path: str, data: bytes) -> None:
        """Write or replace a file at once."""
        target = self.folder / path
        make_folder(target.parent, PUBLIC_FOLDER)
        write_result(target, data, mode=PUBLIC_FILE)


class LogMirror:
    """Follows one log into one folder. One step at a time."""

    def __init__(
        self,
        folder: Path,
        policy: LogPolicy,
        log: PublishedLog,
        api: ApiClient,
        *,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._files = FolderFiles(folder)
        self._copy = PublishedLog(self._files)
        self._policy = policy
        self._log = log
        self._api = api
        self._clock = clock

    async def step(self) -> Witnessed:
        """Copy what is new and return the checkpoint that the folder shows now.

        NOT_WITNESSED for a smaller tree than the folder's; BAD_PROOF or MALFORMED if what is served does not lead to the
        signed root from what the folder has; CORRUPT if the folder is damaged. Then the folder still shows what it did.
        """
        shown = verify_witnessed(await self._log.checkpoint(), self._policy)
        held = await self._held()
        if held is not None and shown.checkpoint.size < held.size:
            raise CounterfoilError(
                Code.NOT_WITNESSED,
                f"the log shows size {shown.checkpoint.size}; this copy has {held.size}",
                remedy="The log went back, or an older copy of it answers: ask its witnesses.",
            )
        await self._copy_tree(held, shown.checkpoint)
        statements = await self._statements(held, shown.checkpoint)
        file = DirectoryFile(shown.note.encode(), tuple(statements))
        await asyncio.to_thread(self._show, file, shown)
        return shown

    async def _held(self) -> Checkpoint | None:
        try:
            note = await self._files.get(CHECKPOINT, MAX_NOTE_BYTES)
        except CounterfoilError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        return verify_witnessed(note, self._policy).checkpoint

    async def _copy_tree(self, held: Checkpoint | None, target: Checkpoint) -> None:
        """Write every tile and entry bundle up to `target`, recomputed from the entries."""
        edge: dict[int, bytes] = {}
        try:
            for tile in right_edge(held.size) if held else ():
                edge[tile.level] = await self._copy.tile(tile)
            walk = Walk(held.size if held else 0, edge)
            damaged = held is not None and walk.root() != held.root
        except CounterfoilError as error:
            raise _damaged(self._files.folder, error.detail) from error
        if held is not None and damaged:
            raise _damaged(self._files.folder, f"its tiles do not lead to its root of {held.size}")
        try:
            while bundles := walk.bundles(target.size):
                data = await asyncio.gather(*(self._log.tile(tile) for tile in bundles))
                served = list(zip(bundles, data, strict=True))
                await asyncio.to_thread(self._write, [*served, *walk.take(served)])
        except FoundError as error:
            raise CounterfoilError(Code.BAD_PROOF, error.finding.detail) from error
        if walk.root() != target.root:
            raise CounterfoilError(
                Code.BAD_PROOF,
                f"the entries served up to {target.size} do not lead to the root that is signed for it",
                remedy="Run `counterfoil log monitor` on the same address: it tells damage from a fork, and keeps the proof.",
            )
        await asyncio.to_thread(self._write, walk.partials())

    async def _statements(self, held: Checkpoint | None, target: Checkpoint) -> list[Placed]:
        """Return the key bundles that have not expired and the revocations, with their paths in the target's tree."""
        known: dict[int, bytes] = {}
        after = -1
        if held is not None:
            with contextlib.suppress(CounterfoilError):
                file = parse_directory(await self._files.get(PATH, MAX_DIRECTORY))
                if verify_witnessed(file.note, self._policy).checkpoint == held:
                    known = {item.index: item.statement for item in file.statements}
                    after = held.size - 1
        more = True
        while more:
            page = await self._api.public(after, KINDS)
            new = [item for item in page.items if item.index < target.size]
            known |= {item.index: item.raw for item in new if item.raw and item.type in KINDS}
            more = page.more and len(new) == len(page.items)
            after = page.items[-1].index if page.items else after
        tiles = OnDemand(self._copy.tile)
        live = needed(known, self._clock())
        return [await _placed(*item, target, tiles) for item in live[-MAX_STATEMENTS:]]

    def _write(self, files: Sequence[tuple[Tile, bytes]]) -> None:
        for tile, data in files:
            self._files.put(tile.path, data)

    def _show(self, file: DirectoryFile, shown: Witnessed) -> None:
        """Show the new tree: the directory, then the checkpoint; then remove what no reader of recent ones needs."""
        self._files.put(PATH, file.encode())
        self._files.put(CHECKPOINT, shown.note.encode().encode())
        size = shown.checkpoint.size
        for tile in (*right_edge(size), Tile(-1, size // 256, 1)):
            beside = (self._files.folder / tile.path).parent
            if beside.is_dir() and beside.suffix == ".p":
                widths = sorted(beside.iterdir(), key=lambda path: int(path.name))
                for old in widths[:-WIDTHS_KEPT]:
                    old.unlink()


def needed(known: Mapping[int, bytes], now: int) -> list[tuple[int, bytes]]:
    """Return, by index, the statements that clients can still need: no expired key bundle, and no revocation of one."""
    statements = {index: parse_statement(raw) for index, raw in sorted(known.items())}
    expired = {
        item.entry
        for item in statements.values()
        if item.type == KeyBundle.TYPE and item.read(KeyBundle).not_after <= now
    }
    return [
        (index, item.raw)
        for index, item in statements.items()
        if item.entry not in expired
        and not (item.type == Revocation.TYPE and item.read(Revocation).bundle in expired)
    ]


async def _placed(index: int, raw: bytes, target: Checkpoint, tiles: OnDemand) -> Placed:
    """Return a statement with its path; BAD_PROOF if the tree has another entry there."""
    entry = parse_statement(raw).entry
    path = await tiles.compute(
        lambda fetch: inclusion_proof(index, target.size, TileReader(target.size, fetch))
    )
    verify_inclusion(leaf_hash(entry), index, target.size, path, target.root)
    return Placed(raw, index, tuple(path))


def _damaged(folder: Path, why: str) -> CounterfoilError:
    return CounterfoilError(
        Code.CORRUPT,
        f"the copy in {folder} is damaged: {why}",
        remedy="Give an empty folder with --to; everything is copied again.",
    )
