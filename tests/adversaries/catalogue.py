"""All adversaries, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tests.adversaries import (
    accounting,
    context,
    decoding,
    endings,
    evidence,
    other_model,
    sampling,
    selective,
    weights,
)
from tests.adversaries.adversary import Adversary

MODULES: Final = (
    weights,
    other_model,
    decoding,
    context,
    sampling,
    endings,
    accounting,
    evidence,
    selective,
)
ADVERSARIES: Final[Mapping[str, Adversary]] = MappingProxyType(
    {adversary.name: adversary for module in MODULES for adversary in module.ADVERSARIES}
)
