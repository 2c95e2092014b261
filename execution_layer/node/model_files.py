"""What clients read prompts and answers with: the model folder's small files, with their places under the model root."""

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
    """Leaves of the model root's tree."""
    leaves: tuple[bytes, ...]
    """Leaf entries of the files."""
    places: tuple[Place, ...]

    @classmethod
    def of(cls, folder: Path, leaves: Sequence[bytes]) -> Self:
        """Find the files' places; `leaves` are the leaf entries of the whole model root."""
        names = [name for name in FILES if (folder / name).exists()]
        own = tuple(leaves[len(leaves) - len(names) :])
        return cls(folder, len(leaves), own, tuple(places(names, leaves)))

    def read(self) -> Iterator[tuple[Place, bytes]]:
        """Yield each file; CORRUPT when one has changed since the model was loaded."""
        for place, leaf in zip(self.places, self.leaves, strict=True):
            data = read_file(self.folder / place.name)
            if data is None or file_leaf(place.name, data) != leaf:
                raise CounterfoilError(
                    Code.CORRUPT,
                    f"{place.name} has changed since the model was loaded",
                    remedy="Start the node anew; clients must pin the model root that it then has.",
                )
            yield place, data
