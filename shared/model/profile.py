"""The numeric profile: everything that fixes the bits of a forward pass, with a probe that is run, not declared.

A backend's arithmetic defines every operation, so neither the device, its instruction set, the number of threads nor the
version of a library is part of the profile. The probe holds the process to that: its value follows from the definition, so a
process that finds another value computes something else and does not serve.
"""

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType

from shared.codec import cbor
from shared.codec.cbor import Value
from shared.model.backend import Backend
from shared.model.probe import probe
from shared.runtime.errors import Code, CounterfoilError

Profile = Mapping[str, str | int]

PROBES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("chain-1", "bfloat16"): "a1ea5f66200575981b0499140b1eccb44d2f8b3ba80b7fab2f70f2dc517138ba",
        ("chain-1", "float16"): "dab1125af0a95e5e722e3e8fa01b842398d28a345cf225366116c7eaf56b06c1",
        ("chain-1", "float32"): "737e20aecd07bae967c13b158d5c0eed28c7d7724e02a53adb8613c49b504248",
        (
            "pairs-32",
            "bfloat16",
        ): "0d9faec07239938cbe8a0887baeba06d662c4a76620a6704feef4fa8c614818a",
        (
            "fused-16",
            "bfloat16",
        ): "f0ffb7fe5b0addf93371cc74f3af966ba8ebdd79b93e452dd4bb7b809497ffb5",
        ("fused-8", "bfloat16"): "e578d8d9088f9a6305a05c140452b85be93adb2f9b4c41aa02c536916a03f8d7",
    }
)
"""What the probe gives under each arithmetic and dtype, by the definition: the portable kernels compute it on any processor."""


def numeric_profile(dtype: str, backend: Backend) -> dict[str, str | int]:
    """Return a backend's profile for a checkpoint's dtype. Runs the probe.

    Errors: CONFIGURATION where this process computes bits other than its arithmetic defines; those of the backend.
    """
    found = probe(dtype, backend)
    if found != PROBES[backend.arithmetic, dtype]:
        others = [name for (name, kind), value in PROBES.items() if (kind, value) == (dtype, found)]
        whose = f"those of {others[0]}" if others else "those of no known arithmetic"
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"on this {backend.device} the probe of {backend.arithmetic} in {dtype} gives bits other than defined: {whose}",
            remedy="Reinstall counterfoil; if that does not help, this machine cannot serve or audit under this arithmetic.",
        )
    return {"arithmetic": backend.arithmetic, "dtype": dtype, "probe": found}


def profile_id(profile: Profile) -> bytes:
    """Return the hash under which key bundles and receipts name a profile (32 bytes)."""
    value: dict[int | str, Value] = dict(profile.items())
    return sha256(cbor.encode(value)).digest()
