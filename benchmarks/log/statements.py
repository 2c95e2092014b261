"""Many valid statements, signed before any clock starts: nodes' receipts with their tenants' orders."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.trail.admission import Admitted, admit
from shared.codec.moment import now_ms
from shared.runtime.keys import key_id, public_bytes
from shared.statements.cose import open_as, sign
from shared.statements.disclosures import DisclosureReason, DisclosureRelease, DisclosureRequest
from shared.statements.keys import HOUR_MS, KeyBundle
from shared.statements.orders import Order
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import NO_RECEIPT, EnergyQuality, Finish, Receipt, Usage
from shared.statements.verdicts import Verdict
from shared.verification.identities import KeyLife

AUTHORITY = "authority"
MODEL_ROOT = sha256(b"benchmarks.log: model").digest()
PROFILE = sha256(b"benchmarks.log: profile").digest()
Signed = tuple[bytes, bytes]
"""A statement and the order that comes with it; empty if none does."""


@dataclass(slots=True)
class Source:
    """One operator's node and the one tenant that orders from it; numbers are gapless, receipts chained.

    The keys follow from `seed` and `place`, so that processes that know both agree on them.
    """

    seed: bytes
    place: int
    number: int = 0
    singles_made: int = 0
    previous: bytes = NO_RECEIPT
    _bundle: bytes = b""
    _keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)

    @property
    def operator(self) -> str:
        return f"operator-{self.place}"

    @property
    def tenant(self) -> str:
        return f"tenant-{self.place}"

    @property
    def node(self) -> str:
        return f"{self.operator}/node"

    def key(self, name: str) -> Ed25519PrivateKey:
        """Return a party's signing key."""
        if name not in self._keys:
            self._keys[name] = Ed25519PrivateKey.from_private_bytes(self._bytes("key", name))
        return self._keys[name]

    def parties(self) -> list[dict[str, str]]:
        """Return the parties that the audit layer must know, as `counterfoil audit party import` reads them."""
        return [
            {"name": name, "role": role, "key": public_bytes(self.key(name)).hex()}
            for name, role in (
                (self.operator, "operator"),
                (self.tenant, "tenant"),
                (AUTHORITY, "authority"),
            )
        ]

    def bundle(self) -> bytes:
        """Return the node's signed key bundle."""
        if not self._bundle:
            begin = now_ms() - HOUR_MS
            value = KeyBundle(
                operator=self.operator,
                node="node",
                not_before=begin,
                not_after=begin + 24 * HOUR_MS,
                signing_key=public_bytes(self.key(self.node)),
                hpke_key=bytes(1216),
                model_roots=(MODEL_ROOT,),
                numeric_profile=PROFILE,
                profile={"dtype": "float32"},
                endpoint="127.0.0.1:1",
            )
            self._bundle = sign(value, key=self.key(self.operator), issuer=self.operator)
        return self._bundle

    def rate_card(self) -> bytes:
        """Return the operator's signed prices."""
        price = Price(model_root=MODEL_ROOT, input="1", cached="0.5", output="2", per=1000)
        value = RateCard(
            name="list", operator=self.operator, currency="EUR", valid_from=0, prices=(price,)
        )
        return sign(value, key=self.key(self.operator), issuer=self.operator)

    def receipts(self, count: int) -> list[Signed]:
        """Sign the next receipts and the orders they answer."""
        bundle, card = sha256(self.bundle()).digest(), sha256(self.rate_card()).digest()
        return [self._receipt(bundle, card) for _ in range(count)]

    def _receipt(self, bundle: bytes, card: bytes) -> Signed:
        now = now_ms()
        shared: dict[str, Any] = {
            "tenant": self.tenant,
            "number": self.number,
            "attempt": 0,
            "ctx": self._bytes("ctx", self.number),
            "kc": self._bytes("kc", self.number),
            "envelope": self._bytes("envelope", self.number),
            "bundle": bundle,
            "rate_card": card,
        }
        order = sign(
            Order(
                **shared,
                created=now - 5000,
                expiry=now + HOUR_MS,
                max_input_tokens=512,
                max_output_tokens=1024,
            ),
            key=self.key(self.tenant),
            issuer=self.tenant,
        )
        value = Receipt(
            **shared,
            order=sha256(order).digest(),
            node_nonce=self._bytes("nonce", self.number),
            h_final=self._bytes("final", self.number),
            model_root=MODEL_ROOT,
            numeric_profile=PROFILE,
            usage=Usage(
                input=512,
                cached=128,
                output=256,
                energy_quality=EnergyQuality.MEASURED,
                compute_ms=900,
                energy_mj=70_000,
            ),
            finish=Finish.STOP,
            started=now - 1000,
            ended=now,
            node_sequence=self.number,
            previous=self.previous,
            settings=self._bytes("settings", self.number),
            activation_root=self._bytes("activations", self.number),
            input=self._bytes("input", self.number),
            output=self._bytes("output", self.number),
            evidence=self._bytes("evidence", self.number),
        )
        raw = sign(value, key=self.key(self.node), issuer=self.node)
        self.number, self.previous = self.number + 1, sha256(raw).digest()
        return raw, order

    def singles(self, count: int) -> list[Signed]:
        """Sign further statements that carry one signature and come without an order: disclosure requests."""
        signed = []
        for number in range(self.singles_made, self.singles_made + count):
            value = DisclosureRequest(
                receipt=self._bytes("single", number),
                index=number,
                draw=self._bytes("draw"),
                reason=DisclosureReason.DRAW,
                recipient=self._bytes("recipient"),
                deadline=now_ms() + HOUR_MS,
            )
            raw = sign(value, key=self.key(AUTHORITY), issuer=AUTHORITY)
            signed.append((raw, b""))
        self.singles_made += count
        return signed

    def admitted(self, signed: Sequence[Signed]) -> list[Admitted]:
        """Pass statements through the trail's own admission, as the server does."""
        known, now = _Known(self), now_ms()
        return [admit(raw, order or None, known, now) for raw, order in signed]

    def _bytes(self, *parts: object) -> bytes:
        whose = 0 if AUTHORITY in parts else self.place  # one authority for all places
        return sha256(self.seed + repr((whose, parts)).encode()).digest()


class _Known:
    """Admission's lookups for a single source."""

    def __init__(self, source: Source) -> None:
        self._parties = {
            (party["role"], key_id(bytes.fromhex(party["key"]))): (
                party["name"],
                bytes.fromhex(party["key"]),
            )
            for party in source.parties()
        }
        bundle, statement = open_as(KeyBundle, source.bundle(), None)
        self._bundles = {statement.entry: bundle}

    def party_key(self, role: str, kid: bytes) -> tuple[str, bytes] | None:
        return self._parties.get((role, kid))

    def bundle(self, entry: bytes) -> KeyBundle | None:
        return self._bundles.get(entry)

    def identity(self, _role: str, _name: str) -> tuple[KeyLife, ...]:
        return ()

    def ended_key(self, _role: str, _kid: bytes) -> tuple[str, KeyLife] | None:
        return None

    def revoked_at(self, _bundle: bytes) -> int | None:
        return None

    def receipt(self, _entry: bytes) -> Receipt | None:
        return None

    def release(self, _entry: bytes) -> DisclosureRelease | None:
        return None

    def tenant_chose(self, _verdict: Verdict) -> bool:
        return False

    def numeric_profiles(self) -> frozenset[bytes]:
        return frozenset({PROFILE})


def new_seed() -> bytes:
    """Return the seed of a run: two runs never share a statement."""
    return secrets.token_bytes(32)
