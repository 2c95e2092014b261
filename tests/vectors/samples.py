"""One valid example of every statement, with fixed keys: what the vectors and many tests are made of."""

from dataclasses import replace
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.envelope.hpke import HpkePrivateKey
from shared.runtime.keys import key_id, public_bytes
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.disclosures import (
    AuditRequest,
    DisclosureReason,
    DisclosureRelease,
    DisclosureRequest,
    EscrowReport,
    ShareReport,
)
from shared.statements.epochs import Draw, EpochOpen, EpochSeal
from shared.statements.erasures import Erasure
from shared.statements.identities import Holder, IdentityKey, IdentityKeyEnd, possession_message
from shared.statements.keys import KeyBundle, Layers, Offer, Revocation
from shared.statements.orders import Order, Part
from shared.statements.periods import PeriodSeal
from shared.statements.ratecards import Price, RateCard
from shared.statements.receipts import Chain, EnergyQuality, Finish, Receipt, Usage
from shared.statements.refusals import Refusal, RefusalReason
from shared.statements.schema import Statement
from shared.statements.seals import Counted, Missing, OrderNumbers, TenantSeal
from shared.statements.verdicts import Outcome, Reason, Verdict

NOW = 1_772_323_200_000
"""2026-03-01T00:00:00Z in milliseconds."""
ORIGIN = "log.example/counterfoil"


def octets(name: str) -> bytes:
    """Return 32 bytes that are fixed by a name: SHA-256 of it."""
    return sha256(name.encode()).digest()


def signing_key(name: str) -> Ed25519PrivateKey:
    """Return the Ed25519 key whose seed is fixed by a name."""
    return Ed25519PrivateKey.from_private_bytes(octets(f"signing key of {name}"))


def hpke_key(name: str) -> HpkePrivateKey:
    """Return the HPKE key whose seed is fixed by a name."""
    return HpkePrivateKey.from_seed(octets(f"hpke key of {name}"))


BUNDLE = KeyBundle(
    operator="gpu-farm",
    node="n1",
    not_before=NOW,
    not_after=NOW + 25 * 3_600_000,
    signing_key=public_bytes(signing_key("node")),
    hpke_key=hpke_key("node").public_bytes,
    model_roots=(octets("model"),),
    numeric_profile=octets("profile"),
    profile={"device": "cpu", "dtype": "float32", "tile": 64},
    endpoint="n1.gpu-farm.example:7443",
)
ORDER = Order(
    tenant="acme",
    number=41,
    attempt=0,
    ctx=octets("ctx"),
    kc=octets("kc"),
    envelope=octets("envelope"),
    bundle=octets("bundle"),
    created=NOW,
    expiry=NOW + 60_000,
    max_input_tokens=64,
    max_output_tokens=256,
    rate_card=octets("rate card"),
    cost_centre=octets("cost centre"),
)
RECEIPT = Receipt(
    order=octets("order"),
    bundle=octets("bundle"),
    ctx=octets("ctx"),
    kc=octets("kc"),
    envelope=octets("envelope"),
    node_nonce=octets("nonce"),
    h_final=octets("h_final"),
    model_root=octets("model"),
    numeric_profile=octets("profile"),
    usage=Usage(
        input=17,
        cached=8,
        output=5,
        energy_quality=EnergyQuality.MEASURED,
        compute_ms=12,
        energy_mj=340,
    ),
    finish=Finish.STOP,
    started=NOW,
    ended=NOW + 800,
    node_sequence=7,
    previous=octets("receipt 6"),
    rate_card=octets("rate card"),
    tenant="acme",
    number=41,
    attempt=0,
    settings=octets("settings"),
    activation_root=octets("activations"),
    input=octets("input"),
    output=octets("output"),
    evidence=octets("evidence"),
)
EARLY_FAILURE = Receipt(
    order=octets("order"),
    bundle=octets("bundle"),
    ctx=octets("ctx"),
    kc=octets("kc"),
    envelope=octets("envelope"),
    node_nonce=octets("nonce"),
    h_final=octets("h_final"),
    model_root=octets("model"),
    numeric_profile=octets("profile"),
    usage=Usage(input=0, cached=0, output=0, energy_quality=EnergyQuality.UNMEASURED),
    finish=Finish.FAILED,
    started=NOW,
    ended=NOW,
    node_sequence=0,
    previous=bytes(32),
    rate_card=octets("rate card"),
    tenant="acme",
    number=42,
    attempt=1,
)
IDENTITY_KEY = IdentityKey(
    role=Holder.OPERATOR,
    name="gpu-farm",
    key=public_bytes(signing_key("next operator")),
    possession=signing_key("next operator").sign(
        possession_message(
            "operator",
            "gpu-farm",
            public_bytes(signing_key("next operator")),
            key_id(signing_key("operator")),
        )
    ),
    not_before=NOW,
)
REFUSAL = Refusal(
    order=octets("order"),
    bundle=octets("bundle"),
    tenant="acme",
    number=43,
    attempt=0,
    reason=RefusalReason.REQUEST,
    at=NOW + 5,
)
SAMPLES: dict[str, tuple[Statement, str, str]] = {
    "key-bundle": (BUNDLE, "operator", "gpu-farm"),
    "key-bundle, evidence elsewhere": (
        replace(BUNDLE, evidence="n1-parties.gpu-farm.example:7444"),
        "operator",
        "gpu-farm",
    ),
    "revocation": (
        Revocation(bundle=octets("bundle"), reason="key lost", at=NOW),
        "operator",
        "gpu-farm",
    ),
    "identity-key": (IDENTITY_KEY, "operator", "gpu-farm"),
    "identity-key-end": (
        IdentityKeyEnd(
            role=Holder.TENANT, name="acme", key=octets("ended key"), at=NOW, reason="rotated"
        ),
        "tenant",
        "acme",
    ),
    "key-bundle, a stage's": (
        replace(
            BUNDLE,
            model_roots=BUNDLE.model_roots[:1],
            layers=Layers(first=8, last=16),
            offer=Offer(decode_rows=120, prefill_rows=4_000, memory_mib=512, region="eu-west"),
        ),
        "operator",
        "gpu-farm",
    ),
    "key-bundle, a head's": (
        replace(BUNDLE, stages=("farm/s1", "gpu-farm/s2")),
        "operator",
        "gpu-farm",
    ),
    "order": (ORDER, "tenant", "acme"),
    "order, for a part": (
        replace(ORDER, part=Part(head=octets("order"), place=1)),
        "tenant",
        "acme",
    ),
    "receipt": (RECEIPT, "node", "gpu-farm/n1"),
    "receipt, a head's": (
        replace(
            RECEIPT,
            chain=Chain(
                place=0,
                sent=octets("boundary 0"),
                received=octets("boundary 1"),
                stages=(octets("receipt of stage 1"),),
            ),
        ),
        "node",
        "gpu-farm/n1",
    ),
    "receipt, a stage's": (
        replace(
            RECEIPT,
            chain=Chain(place=1, sent=octets("boundary 1"), received=octets("boundary 0")),
            settings=None,
            activation_root=None,
            input=None,
            output=None,
            evidence=None,
        ),
        "node",
        "gpu-farm/n1",
    ),
    "refusal": (REFUSAL, "node", "gpu-farm/n1"),
    "receipt-early-failure": (
        EARLY_FAILURE,
        "node",
        "gpu-farm/n1",
    ),
    "epoch-open": (
        EpochOpen(
            epoch=3,
            at=NOW,
            first=100,
            commitments=(octets("commitment 1"), octets("commitment 2")),
            rate_ppm=500_000,
            floor=1,
        ),
        "authority",
        "authority",
    ),
    "beacon-commitment": (
        BeaconCommitment(
            party="witness-1", origin=ORIGIN, epoch=3, commitment=octets("commitment")
        ),
        "witness",
        "witness-1",
    ),
    "beacon-reveal": (
        BeaconReveal(
            party="witness-1", origin=ORIGIN, epoch=3, seal=octets("seal"), reveal=octets("reveal")
        ),
        "witness",
        "witness-1",
    ),
    "epoch-seal": (
        EpochSeal(
            epoch=3,
            at=NOW,
            open=octets("open"),
            first=100,
            size=164,
            root=octets("root"),
            nodes={octets("bundle"): octets("entries"), octets("bundle 2"): octets("entries 2")},
        ),
        "authority",
        "authority",
    ),
    "tenant-seal": (
        TenantSeal(
            tenant="acme",
            number=4,
            start=NOW - 2 * 86_400_000,
            end=NOW - 86_400_000,
            at=NOW,
            previous=octets("seal 3"),
            size=164,
            root=octets("root"),
            receipts=40,
            entries=octets("entries"),
            late=2,
            late_entries=octets("late entries"),
            orders=OrderNumbers(next=61, missing=(Missing(7, 9), Missing(30, 30))),
            disclosures=Counted(5, octets("disclosure entries")),
        ),
        "authority",
        "authority",
    ),
    "tenant-seal-refusals": (
        TenantSeal(
            tenant="acme",
            number=4,
            start=NOW - 2 * 86_400_000,
            end=NOW - 86_400_000,
            at=NOW,
            previous=octets("seal 3"),
            size=164,
            root=octets("root"),
            receipts=40,
            entries=octets("entries"),
            late=2,
            late_entries=octets("late entries"),
            orders=OrderNumbers(next=61, missing=(Missing(7, 9),)),
            disclosures=Counted(0, octets("no disclosure entries")),
            refusals=Counted(count=1, entries=octets("refusal entries")),
        ),
        "authority",
        "authority",
    ),
    "erasure": (
        Erasure(
            tenant="acme",
            start=NOW - 2 * 86_400_000,
            end=NOW - 86_400_000,
            statements=40,
            entries=octets("entries"),
            reason="request under Art. 17 GDPR",
            requested_by="acme",
            at=NOW,
        ),
        "authority",
        "authority",
    ),
    "period-seal": (
        PeriodSeal(
            tenant="acme",
            operator="operator-a",
            currency="EUR",
            start=NOW - 30 * 86_400_000,
            end=NOW,
            time_zone="Europe/Berlin",
            at=NOW + 1,
            previous=octets("previous period"),
            size=61,
            lines=40,
            root=octets("lines"),
            bill=octets("bill"),
        ),
        "authority",
        "authority",
    ),
    "draw": (
        Draw(
            epoch=3,
            seal=octets("seal"),
            reveals=(octets("reveal 1"), octets("reveal 2")),
            whole=False,
            seed=octets("seed"),
            drawn=(101, 104, 163),
        ),
        "authority",
        "authority",
    ),
    "audit-request": (
        AuditRequest(tenant="acme", receipt=octets("receipt"), at=NOW),
        "tenant",
        "acme",
    ),
    "disclosure-request": (
        DisclosureRequest(
            receipt=octets("receipt"),
            index=104,
            draw=octets("draw"),
            reason=DisclosureReason.DRAW,
            recipient=hpke_key("worker").key_id,
            deadline=NOW + 86_400_000,
        ),
        "authority",
        "authority",
    ),
    "disclosure-release": (
        DisclosureRelease(
            request=octets("request"),
            receipt=octets("receipt"),
            custodian="custodian-1",
            share=octets("sealed share"),
        ),
        "custodian",
        "custodian-1",
    ),
    "escrow-report": (
        EscrowReport(
            request=octets("request"),
            receipt=octets("receipt"),
            envelope=octets("envelope"),
            custodian="custodian-1",
            key=hpke_key("custodian 1").key_id,
        ),
        "custodian",
        "custodian-1",
    ),
    "share-report": (
        ShareReport(
            release=octets("release"),
            request=octets("request"),
            receipt=octets("receipt"),
            custodian="custodian-1",
            worker="worker-1",
        ),
        "worker",
        "worker-1",
    ),
    "verdict": (
        Verdict(
            receipt=octets("receipt"),
            request=octets("request"),
            worker="worker-1",
            outcome=Outcome.FAIL,
            reason=Reason.ACTIVATIONS,
            evidence=octets("findings"),
            numeric_profile=octets("profile"),
            at=NOW,
            confirms=octets("first verdict"),
        ),
        "worker",
        "worker-1",
    ),
    "rate-card": (
        RateCard(
            name="list prices 2026-03",
            operator="gpu-farm",
            currency="EUR",
            valid_from=NOW,
            valid_to=NOW + 31 * 86_400_000,
            prices=(
                Price(
                    model_root=octets("model"), input="0.30", cached="0.03", output="1.2", per=10**6
                ),
            ),
        ),
        "operator",
        "gpu-farm",
    ),
}
"""Name → (statement, who signs, issuer)."""
