"""Some of a model: a range of its layers, with or without its two ends. Pure, no torch."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_LAYERS: Final = re.compile(r"([0-9]{1,4}):([0-9]{1,4})", re.ASCII)
_LAYER: Final = re.compile(r"model\.layers\.([0-9]{1,4})\..+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cut:
    """The layers [first, last), and perhaps the ends: the embedding, the norm after the last layer and the head."""

    first: int
    last: int
    ends: bool

    def __str__(self) -> str:
        layers = f"layers {self.first}:{self.last}" if self.first < self.last else ""
        return " and ".join(filter(None, (layers, "embedding and head" if self.ends else "")))

    def of(self, names: Iterable[str]) -> list[str]:
        """Return those of a model's tensors, by Hugging Face's names, that belong to it: what is of no layer is of the ends."""

        def ours(name: str) -> bool:
            found = _LAYER.fullmatch(name)
            return self.ends if found is None else self.first <= int(found[1]) < self.last

        return [name for name in names if ours(name)]


def layers_of(text: str) -> tuple[int, int]:
    """Return the range that `FIRST:LAST` names, LAST not included; ValueError if it is none."""
    found = _LAYERS.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError("layers are FIRST:LAST, for instance 4:8 for layers 4, 5, 6 and 7")
    return int(found[1]), int(found[2])
