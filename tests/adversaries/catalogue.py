"""All adversaries, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tests.adversaries import endings, sampling, weights
from tests.adversaries.adversary import Adversary

MODULES: Final = (weights, sampling, endings)
ADVERSARIES: Final[Mapping[str, Adversary]] = MappingProxyType(
    {adversary.name: adversary for module in MODULES for adversary in module.ADVERSARIES}
)
