"""The numeric profile: everything that fixes the bits of a forward pass, with a probe that is run, not declared.

A backend's arithmetic defines every operation, so neither the instruction set nor the number of threads nor the version of a
library is part of the profile. The probe holds the process to that: a processor or a compiler that computes anything else has
another probe, hence another profile.
"""

from collections.abc import Mapping
from hashlib import sha256

from shared.codec import cbor
from shared.codec.cbor import Value
from shared.model.backend import Backend
from shared.model.probe import probe

Profile = Mapping[str, str | int]


def numeric_profile(dtype: str, backend: Backend) -> dict[str, str | int]:
    """Return this process's profile for a checkpoint's dtype on a backend. Runs the probe; errors are the backend's."""
    return {
        "device": backend.device,
        "architecture": backend.architecture,
        "dtype": dtype,
        "kernels": backend.arithmetic,
        "probe": probe(dtype, backend),
    }


def profile_id(profile: Profile) -> bytes:
    """Return the hash under which key bundles and receipts name a profile (32 bytes)."""
    value: dict[int | str, Value] = dict(profile.items())
    return sha256(cbor.encode(value)).digest()
