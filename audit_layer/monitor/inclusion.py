"""Whether the verified tree holds an entry at its claimed index."""

from collections.abc import Callable

from audit_layer.monitor.answers import Listed
from audit_layer.monitor.findings import Finding, FoundError, Kind
from shared.runtime.errors import CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.proofs import inclusion_proof, verify_inclusion
from shared.translog.published import OnDemand
from shared.translog.tiles import TileReader
from shared.translog.tree import leaf_hash


async def prove(item: Listed, checkpoint: Checkpoint, tiles: OnDemand) -> None:
    """Check that the tree holds an entry at its index; FoundError when it holds another or cannot be read."""

    def proof(fetch: Callable[..., bytes]) -> tuple[bytes, list[bytes]]:
        reader = TileReader(checkpoint.size, fetch)
        return reader(0, item.index), inclusion_proof(item.index, checkpoint.size, reader)

    leaf, path = await tiles.compute(proof)
    try:
        verify_inclusion(leaf, item.index, checkpoint.size, path, checkpoint.root)
    except CounterfoilError as error:
        raise FoundError(
            Finding(
                Kind.DAMAGE,
                f"path to {item.index} at {checkpoint.size}",
                f"the tiles served now do not lead from index {item.index} to the verified root",
            )
        ) from error
    if leaf != leaf_hash(item.entry):
        raise FoundError(
            Finding(
                Kind.STATEMENT,
                f"{item.entry.hex()} at {item.index}",
                f"the log's entry at index {item.index} is not {item.entry.hex()}",
            )
        )
