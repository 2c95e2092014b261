"""The model folder's small files, from which clients build a tokenizer, with their places under the model root."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import read_file
from shared.text.model_files import FILES, Place, file_leaf, places


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files as they were when the model was loaded."""

    folder: Path
    size: int
    """Number of leaves in the model root's tree."""
    leaves: tuple[bytes, ...]
    """The files' leaf entries."""
    places: tuple[Place, ...]

    @classmethod
    def of(cls, folder: Path, leaves: Sequence[bytes]) -> Self:
        """Find the files' places; `leaves` are the leaf entries of the whole model root."""
        names = [name for name in FILES if (folder / name).exists()]
        own = tuple(leaves[len(leaves) - len(names) :])
        return cls(folder, len(leaves), own, tuple(places(names, leaves)))

    def read(self) -> Iterator[tuple[Place, bytes]]:
        """Yield each file; CORRUPT if one has changed since the model was loaded."""
        for place, leaf in zip(self.places, self.leaves, strict=True):
            data = read_file(self.folder / place.name)
            if data is None or file_leaf(place.name, data) != leaf:
                raise CounterfoilError(
                    Code.CORRUPT,
                    f"{place.name} has changed since the model was loaded",
                    remedy="Restart the node; clients must pin its new model root.",
                )
            yield place, data
