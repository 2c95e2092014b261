"""The file that says on what an operator serves: device, batching, and the sizes of models. Pure.

```toml
[serving]
device = "h100-sxm"       # of the table of devices, or of a file of one's own
together = 2              # devices that work on one request (1)
engines = 4               # such groups in the node (1)
largest_batch = 8192      # most positions in one step (1)
tokens_per_pass = 3       # more than 1 with speculation (1)
weight_bits = 8           # of a parameter as it is served, where it is quantised
in_flight = 64            # requests that share an energy counter, where it is known
host_watts = 900.0        # power of everything else, where the meter counts it (0)

[models.fox]              # by the name that the books have for it, or by the 64 digits of its root
active_parameters = 7_504_924_672   # that a position is multiplied with, without embeddings and output head
head_parameters = 525_336_576       # of the output head (0)
all_parameters = 46_000_000_000     # of a mixture: with all experts
weight_bits = 16                    # of a stored parameter (16)
```
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.codec.ids import check_label
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable
from shared.verification.devices import Device
from shared.verification.physics import MOST, Model, Serving

MAX_BYTES: Final = 256 * 1024
MAX_MODELS: Final = 1000
_ROOT: Final = re.compile(r"[0-9a-f]{64}")
_Count = Annotated[int, Field(ge=1, le=MOST, strict=True)]
_Bits = Annotated[int, Field(ge=1, le=64, strict=True)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Serving(_Table):
    device: Annotated[str, Field(min_length=1, max_length=60)]
    together: _Count = 1
    engines: _Count = 1
    largest_batch: _Count = 1
    tokens_per_pass: _Count = 1
    weight_bits: _Bits | None = None
    in_flight: _Count | None = None
    host_watts: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)] = 0.0


class _Model(_Table):
    active_parameters: _Count
    head_parameters: Annotated[int, Field(ge=0, le=MOST, strict=True)] = 0
    all_parameters: _Count | None = None
    weight_bits: _Bits = 16


class _File(_Table):
    serving: _Serving
    models: Annotated[dict[str, _Model], Field(max_length=MAX_MODELS)] = {}


@dataclass(frozen=True, slots=True)
class ServingFile:
    """What a file says."""

    serving: Serving
    models: Mapping[str, Model]
    """By name, or root in hexadecimal."""

    @classmethod
    def parse(cls, data: bytes, devices: Mapping[str, Device]) -> "ServingFile":
        """Return what a TOML file says; INVALID_ARGUMENT for any other file, an unknown key or an unknown device."""
        if len(data) > MAX_BYTES:
            raise _wrong(f"it is longer than {MAX_BYTES:,} bytes")
        try:
            found = _File.model_validate(tomllib.loads(data.decode("utf-8")))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(printable(str(part), 60) for part in first["loc"])
            raise _wrong(f"{where}: {first['msg']}") from error
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise _wrong(f"it is not TOML: {type(error).__name__}") from error
        values = found.serving.model_dump()
        name = values.pop("device")
        if name not in devices:
            known = ", ".join(sorted(devices))[:500]
            raise _wrong(f"the device {printable(name, 60)} is unknown; known: {known}")
        models = {check_label(name, "a model"): _model(one) for name, one in found.models.items()}
        return cls(Serving(device=devices[name], **values), models)

    def by_root(self, names: Mapping[str, bytes]) -> Mapping[bytes, Model]:
        """Return the models by root, given the roots of names; INVALID_ARGUMENT for a name that the books do not have."""
        found: dict[bytes, Model] = {}
        for name, model in self.models.items():
            root = names.get(name)
            if root is None:
                if not _ROOT.fullmatch(name):
                    raise _wrong(f"the books know no model named {name!r}; name it by its root")
                root = bytes.fromhex(name)
            found[root] = model
        return found


def _model(one: _Model) -> Model:
    return Model(one.active_parameters, one.head_parameters, one.weight_bits, one.all_parameters)


def _wrong(problem: str) -> CounterfoilError:
    return CounterfoilError(
        Code.INVALID_ARGUMENT,
        f"the file of how it is served is not usable: {problem}",
        remedy="docs/plausibility.md shows one.",
    )
