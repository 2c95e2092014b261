"""The node's keys and key bundles, in one folder of files that only their owner can read.

The signing key stays for the life of the node; each HPKE key lives one day under a key bundle signed with
the operator's identity key. A key bundle's successor is made some hours before its end, so that it can be registered
and witnessed although the audit server is away for a while; clients are told of it only then, and for the last hour at
least both open requests. A key bundle is also replaced when its content is no longer true (endpoint, model, profile),
when its operator has revoked it, and at once when somebody asks for it (`request_roll`).
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from execution_layer.node.attesters import Attest
from execution_layer.node.revoking import revoked_from
from shared.envelope.hpke import HpkePrivateKey, generate_hpke_key, load_hpke_seed, save_hpke_key
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import (
    FILES,
    KeyStore,
    Signer,
    key_id,
    load_or_create_ed25519,
    private_folder,
    public_bytes,
    write_atomic,
    write_private,
)
from shared.statements.cose import open_as, parse_statement, sign
from shared.statements.keys import HOUR_MS, KeyBundle, Layers, Offer
from shared.verification.trust import key_for

_log = logging.getLogger(__name__)

LIFE_MS: Final = 24 * HOUR_MS
OVERLAP_MS: Final = HOUR_MS
"""How long the old and the new key bundle are both open to clients."""
RENEWAL_MS: Final = OVERLAP_MS + 3 * HOUR_MS
"""How long before its end a key bundle's successor is made: for up to three hours, nothing depends on the audit server."""
SKEW_MS: Final = 60_000
"""How far a key bundle is backdated, for clients whose clocks are behind."""
STORAGE_KEY_BYTES: Final = 32
_ROLL: Final = "roll"
"""The file by which somebody asks for a new key bundle."""


def request_roll(folder: Path) -> None:
    """Ask the node with this key folder for a new key bundle; it stays asked until one is made, over restarts too."""
    write_private(folder / _ROLL, b"")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a key bundle says besides keys and times."""

    operator: str
    node: str
    endpoint: str
    model_roots: tuple[bytes, ...]
    numeric_profile: bytes
    profile: Mapping[str, str | int]
    evidence: str | None = None
    """Where audit workers call, if not at `endpoint`."""
    layers: Layers | None = None
    """What a stage computes; None for a node that answers."""
    stages: tuple[str, ...] | None = None
    """The stages of other names to which it leaves layers."""
    offer: Offer | None = None
    """Its claims. They change with every measurement, and go out with the next key bundle."""

    def compute_as(self, bundle: KeyBundle) -> bool:
        """Return whether a key bundle promises this model, or these layers of it, and this numeric profile."""
        return (
            bundle.model_roots == self.model_roots
            and bundle.layers == self.layers
            and bundle.numeric_profile == self.numeric_profile
            and dict(bundle.profile) == dict(self.profile)
        )

    def are_those_of(self, bundle: KeyBundle) -> bool:
        """Return whether a key bundle still states all of these facts, apart from what is merely claimed."""
        names = (bundle.operator, bundle.node, bundle.endpoint, bundle.evidence, bundle.stages)
        own = (self.operator, self.node, self.endpoint, self.evidence, self.stages)
        return names == own and self.compute_as(bundle)


@dataclass(slots=True)
class BundleKeys:
    """One key bundle with the private key that opens what is sealed for it."""

    bundle: KeyBundle
    statement: bytes
    entry: bytes
    hpke: HpkePrivateKey = field(repr=False)
    proof: str = ""
    """tlog-proof, empty until the key bundle is witnessed."""


class KeyRing:
    """The node's keys. `renew` is called at start and from time to time; the other methods mostly look up."""

    def __init__(
        self,
        folder: Path,
        operator_key: Signer,
        attest: Attest | None = None,
        *,
        earlier: Collection[bytes] = (),
        reload: Callable[[], Signer] | None = None,
        store: KeyStore = FILES,
    ) -> None:
        """`attest` gives each key bundle its evidence; `earlier` are public keys that the operator had before; `reload` reads
        its key anew before it signs. The node's own keys are in `store`; HPKE keys, which live a day, in its files.
        """
        self._attest = attest
        self._folder = private_folder(folder)
        self._operator_key = operator_key
        self._trusted = {*earlier, public_bytes(operator_key)}
        self._reload = reload
        self._store = store
        self.signing_key = load_or_create_ed25519(folder / "signing.pem", store)
        self.storage_key = _load_or_create_secret(folder / "storage.key", store)
        self._roll = folder / _ROLL
        self._bundles = self._load()

    def current(self) -> BundleKeys:
        """Return the key bundle that clients are told of: the newest that is witnessed, or the newest if none is."""
        return _newest([keys for keys in self._bundles.values() if keys.proof]) or self.newest()

    def newest(self) -> BundleKeys:
        """Return the newest key bundle, which may not be witnessed yet."""
        newest = _newest(list(self._bundles.values()))
        if newest is None:
            raise CounterfoilError(Code.STALE_KEY, "the node has no key bundle yet")
        return newest

    def find(self, entry: bytes, now_ms: int) -> BundleKeys | None:
        """Return a key bundle that is valid now, by its entry."""
        keys = self._bundles.get(entry)
        return keys if keys is not None and keys.bundle.is_live(now_ms) else None

    def known(self, entry: bytes) -> KeyBundle | None:
        """Return one of this node's key bundles by its entry, even if it is not valid now; None once it is dropped."""
        keys = self._bundles.get(entry)
        return None if keys is None else keys.bundle

    def unproved(self) -> list[BundleKeys]:
        """Return the key bundles that are not witnessed yet."""
        return [keys for keys in self._bundles.values() if not keys.proof]

    def asked(self) -> bool:
        """Return whether somebody asked for a new key bundle."""
        return self._roll.exists()

    def revoked(self, listed: Iterable[bytes], now_ms: int) -> list[bytes]:
        """Return the entries of the key bundles that the operator's own revocations, among those `listed`, have ended."""
        known = list(listed)
        ends = {entry: revoked_from(known, entry, *self._trusted) for entry in self._bundles}
        return [entry for entry, at in ends.items() if at is not None and at <= now_ms]

    def end(self, entry: bytes) -> None:
        """Drop a key bundle that its operator has revoked: nothing that is sealed for it is opened any more."""
        if (keys := self._bundles.get(entry)) is not None:
            self._forget(keys)

    def renew(self, facts: NodeFacts, now_ms: int) -> BundleKeys | None:
        """Make a new key bundle if the newest is near its expiry or outdated, or if somebody asked for it.
        Those that have expired, or that promise another model, other layers or another numeric profile, are dropped.
        """
        for keys in list(self._bundles.values()):
            if keys.bundle.not_after <= now_ms or not facts.compute_as(keys.bundle):
                self._forget(keys)
        self._sweep()
        self._follow_operator()
        newest = _newest(list(self._bundles.values()))
        if (
            newest is not None
            and now_ms < newest.bundle.not_after - RENEWAL_MS
            and facts.are_those_of(newest.bundle)
            and not self.asked()
            and (newest.proof or self._is_signer(newest))
        ):
            return None
        made = self._create(facts, now_ms)
        self._roll.unlink(missing_ok=True)
        return made

    def staple(self, keys: BundleKeys, proof: str) -> None:
        """Store a key bundle's tlog-proof."""
        write_atomic(self._file(keys.entry, "tlog-proof"), proof.encode())
        keys.proof = proof

    def _follow_operator(self) -> None:
        """Use the operator's key as it is now: it may have been rotated."""
        if self._reload is None:
            return
        try:
            self._operator_key = self._reload()
        except CounterfoilError as error:
            _log.error("the operator's key cannot be read again: %s", error)
        self._trusted.add(public_bytes(self._operator_key))

    def _is_signer(self, keys: BundleKeys) -> bool:
        """Whether the operator's current key signed a key bundle: the log may not take one of an ended key any more."""
        return parse_statement(keys.statement).kid == key_id(self._operator_key)

    def _create(self, facts: NodeFacts, now_ms: int) -> BundleKeys:
        hpke = generate_hpke_key()
        bundle = KeyBundle(
            operator=facts.operator,
            node=facts.node,
            not_before=max(0, now_ms - SKEW_MS),
            not_after=max(0, now_ms - SKEW_MS) + LIFE_MS,
            signing_key=public_bytes(self.signing_key),
            hpke_key=hpke.public_bytes,
            model_roots=facts.model_roots,
            numeric_profile=facts.numeric_profile,
            profile=dict(facts.profile),
            endpoint=facts.endpoint,
            evidence=facts.evidence,
            layers=facts.layers,
            stages=facts.stages,
            offer=facts.offer,
        )
        if self._attest is not None:
            bundle = replace(bundle, attestation=self._attest(bundle))
        statement = sign(bundle, key=self._operator_key, issuer=facts.operator)
        _, signed = open_as(KeyBundle, statement, public_bytes(self._operator_key))
        # The key is written first: a key bundle without its key must never be published.
        save_hpke_key(self._file(signed.entry, "hpke"), hpke, self._store)
        write_atomic(self._file(signed.entry, "bundle"), statement)
        keys = BundleKeys(bundle, statement, signed.entry, hpke)
        self._bundles[signed.entry] = keys
        return keys

    def _load(self) -> dict[bytes, BundleKeys]:
        found = {}
        own = public_bytes(self.signing_key)
        for path in sorted(self._folder.glob("*.bundle")):
            try:
                raw = path.read_bytes()
                signer = key_for(parse_statement(raw), self._trusted)
                bundle, signed = open_as(KeyBundle, raw, signer)
            except CounterfoilError as error:
                raise CounterfoilError(
                    Code.CONFIGURATION,
                    f"{path} is not a key bundle of this operator: {error.detail}",
                    remedy="Give each node a key folder of its own. After a rotation, keep the list of earlier keys"
                    " (operator.keys) beside the operator's key file.",
                ) from error
            if bundle.signing_key == own:
                proof = self._file(signed.entry, "tlog-proof")
                found[signed.entry] = BundleKeys(
                    bundle,
                    signed.raw,
                    signed.entry,
                    load_hpke_seed(self._file(signed.entry, "hpke"), self._store),
                    proof.read_text("utf-8") if proof.exists() else "",
                )
        return found

    def _forget(self, keys: BundleKeys) -> None:
        """Delete an expired key bundle's key, so that nobody can open later what was sealed for it."""
        for suffix in ("bundle", "hpke", "tlog-proof"):
            self._file(keys.entry, suffix).unlink(missing_ok=True)
        del self._bundles[keys.entry]

    def _sweep(self) -> None:
        """Delete private keys without a key bundle, left by a kill: of one that had expired, or was never published."""
        for path in self._folder.glob("*.hpke"):
            if not path.with_suffix(".bundle").exists():
                path.unlink()

    def _file(self, entry: bytes, suffix: str) -> Path:
        return self._folder / f"{entry.hex()}.{suffix}"


def _newest(bundles: list[BundleKeys]) -> BundleKeys | None:
    return max(bundles, key=lambda keys: keys.bundle.not_before, default=None)


def _load_or_create_secret(path: Path, store: KeyStore) -> bytes:
    if not path.exists():
        store.create_secret(path, os.urandom(STORAGE_KEY_BYTES).hex().encode("ascii") + b"\n")
    try:
        secret = bytes.fromhex(store.secret(path).decode("ascii").strip())
    except ValueError as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} does not hold a key") from error
    if len(secret) != STORAGE_KEY_BYTES:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} does not hold a 32-byte key")
    return secret
