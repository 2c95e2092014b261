"""Keys that a plug-in holds: a PKCS#11 device or a key management service signs and opens with them, and hands none out.

A plug-in is an entry point of the group `counterfoil.key_stores`: its name is the store's kind, and it is a function from the
options of the configuration to a `KeyHolder`. A key's path is then a small file that refers to it and pins its public key, so
that a plug-in that is exchanged, or a label that comes to mean another key, is noticed before anything is signed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import FILES, Algorithm, create_private, private_folder, read_key_file

GROUP: Final = "counterfoil.key_stores"
FORMAT: Final = "counterfoil-key-reference/v1"
PUBLIC_BYTES: Final = {Algorithm.ED25519: 32, Algorithm.MLDSA44: 1312, Algorithm.HPKE: 1216}
T = TypeVar("T")


class KeyHolder(Protocol):
    """What a plug-in does. It bounds its own time: whoever signs or opens waits for it."""

    def create(self, algorithm: str, /) -> str:
        """Make a key of an `Algorithm`; return the label by which it is found. ValueError if it makes none such."""

    def public_key(self, label: str, /) -> bytes:
        """Return the raw public key. KeyError if there is no such key."""

    def sign(self, label: str, data: bytes, /) -> bytes:
        """Return the raw signature over `data`."""

    def open(self, label: str, info: bytes, data: bytes, /) -> bytes:
        """Return what is sealed for the key (`enc ‖ ciphertext`, protocol §1); ValueError if it is not."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The content of a key file that refers to a held key."""

    store: str
    label: str
    algorithm: str
    public_key: bytes

    def encoded(self) -> bytes:
        """Return the file, JSON."""
        shown = {
            "format": FORMAT,
            "store": self.store,
            "label": self.label,
            "algorithm": self.algorithm,
            "public_key": self.public_key.hex(),
        }
        return json.dumps(shown, indent=1).encode() + b"\n"


def reference_in(data: bytes) -> Reference | None:
    """Return the reference that a key file holds; None if it holds something else."""
    try:
        shown = json.loads(data)
        if shown["format"] != FORMAT:
            return None
        store, label, algorithm = (shown[name] for name in ("store", "label", "algorithm"))
        if not all(isinstance(text, str) for text in (store, label, algorithm)):
            return None
        return Reference(store, label, algorithm, bytes.fromhex(shown["public_key"]))
    except (ValueError, KeyError, TypeError):
        return None


Loader = Callable[[], Callable[[Mapping[str, str]], KeyHolder]]
"""Loads a plug-in: a function from the options to what holds the keys."""


def installed() -> Mapping[str, Loader]:
    """Return the plug-ins that are installed, by kind: functions that load them."""
    return {entry.name: entry.load for entry in metadata.entry_points(group=GROUP)}


class HeldKeys:
    """A store of which the long-lived keys are held by a plug-in. Other secrets are in files, as in the store `file`."""

    def __init__(self, kind: str, holder: KeyHolder) -> None:
        self._kind = kind
        self._holder = holder

    @classmethod
    def open(
        cls,
        kind: str,
        load: Loader,
        options: Mapping[str, str],
    ) -> Self:
        """Load a plug-in; CONFIGURATION if it does not start."""
        try:
            return cls(kind, load()(options))
        except Exception as error:  # a plug-in may raise anything
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"the key store {kind} does not start: {type(error).__name__}: {str(error)[:200]}",
                remedy="Check options under [key_store], and that its device or service can be reached.",
            ) from error

    @property
    def kind(self) -> str:
        """The plug-in's name."""
        return self._kind

    def secret(self, path: Path) -> bytes:
        """Return the content of a file that is not held: an HPKE key that lives a day, a secret that is no key pair."""
        return FILES.secret(path)

    def create_secret(self, path: Path, data: bytes) -> bool:
        """Store such a file unless there is one."""
        return FILES.create_secret(path, data)

    def held(self, path: Path, algorithm: Algorithm, *, create: bool = False) -> "Held":
        """Return the key to which the file refers, made at first use if `create`. CONFIGURATION if it is another key now."""
        if create and not path.exists():
            label = self._call("makes no key", lambda: self._holder.create(algorithm.value))
            made = Reference(self._kind, label, algorithm.value, self._public(label))
            private_folder(path.parent)
            create_private(path, made.encoded())
        found = reference_in(read_key_file(path))
        if found is None or (found.store, found.algorithm) != (self._kind, algorithm.value):
            what = (
                "no key of a key store" if found is None else f"{found.algorithm} of {found.store}"
            )
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{path} refers to {what}, not to {algorithm.value} of {self._kind}",
                remedy="Set kind under [key_store] to the store that made it; a key cannot move into or out of a store.",
            )
        if self._public(found.label) != found.public_key:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"the key store {self._kind} has another key under {found.label[:60]!r} than {path} pins",
                remedy="Connect the device or service that holds the key, or restore the file.",
            )
        return Held(self._kind, self._holder, found)

    def refer(self, path: Path, algorithm: Algorithm, label: str) -> bytes:
        """Let a new key file refer to a key that the plug-in holds already; return its public key.

        CONFLICT if there is a file, CONFIGURATION if the plug-in has no such key, or it is no key of this algorithm.
        """
        public = self._public(label)
        if len(public) != PUBLIC_BYTES[algorithm]:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"the key {label[:60]!r} is not of the algorithm {algorithm.value}",
            )
        made = Reference(self._kind, label, algorithm.value, public)
        private_folder(path.parent)
        if not create_private(path, made.encoded()):
            raise CounterfoilError(
                Code.CONFLICT, f"{path} exists", remedy="Name another file, or remove this one."
            )
        return public

    def _public(self, label: str) -> bytes:
        return self._call(f"has no key {label[:60]!r}", lambda: self._holder.public_key(label))

    def _call(self, problem: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:  # a plug-in may raise anything
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"the key store {self._kind} {problem}: {type(error).__name__}",
                remedy="Check that its device or service can be reached and holds this party's keys.",
            ) from error


class Held:
    """One key that a plug-in holds."""

    def __init__(self, kind: str, holder: KeyHolder, reference: Reference) -> None:
        self._kind = kind
        self._holder = holder
        self._label = reference.label
        self._algorithm = reference.algorithm
        self.public_bytes = reference.public_key

    def public_key(self) -> Ed25519PublicKey:
        """Return the public half."""
        return Ed25519PublicKey.from_public_bytes(self.public_bytes)

    def sign(self, data: bytes) -> bytes:
        """Return a signature that verifies; UNAVAILABLE if the plug-in gives none."""
        signature = self._call(lambda: self._holder.sign(self._label, data))
        public = (
            MLDSA44PublicKey if self._algorithm == Algorithm.MLDSA44 else Ed25519PublicKey
        ).from_public_bytes(self.public_bytes)
        try:
            public.verify(signature, data)
        except (InvalidSignature, TypeError, ValueError) as error:
            raise self._unavailable("signs with another key") from error
        return signature

    def open(self, info: bytes, data: bytes) -> bytes:
        """Return what is sealed for this key; UNREADABLE if it is not, UNAVAILABLE if the plug-in does not answer."""
        try:
            return self._call(lambda: self._holder.open(self._label, info, data))
        except CounterfoilError as error:
            if isinstance(error.__cause__, ValueError):
                raise CounterfoilError(Code.UNREADABLE, "sealed data cannot be opened") from None
            raise

    def __repr__(self) -> str:
        return f"Held({self._kind!r}, {self._label[:60]!r})"

    def _call(self, call: Callable[[], bytes]) -> bytes:
        try:
            return call()
        except Exception as error:  # a plug-in may raise anything
            raise self._unavailable(f"does not answer: {type(error).__name__}") from error

    def _unavailable(self, problem: str) -> CounterfoilError:
        return CounterfoilError(
            Code.UNAVAILABLE,
            f"the key store {self._kind} {problem}",
            remedy="Check that its device or service can be reached and holds this party's keys.",
        )
