"""The vectors of protocol §6.2.2: messages of both steps, shares mixed between requests, and when a client is to blame."""

from collections.abc import Mapping
from dataclasses import replace

from shared.codec.hashing import sha256
from shared.envelope.header import Envelope, envelope_hash
from shared.envelope.release import ReleaseContext
from shared.parties.custody import CaseAnswer, ShareAnswer, ShareRequest
from shared.runtime.keys import public_bytes
from shared.statements.cose import sign
from shared.statements.disclosures import DisclosureRelease, EscrowReport
from tests.vectors.files import Json
from tests.vectors.samples import hpke_key, octets, signing_key
from tests.vectors.spoil_envelope import CUSTODIANS

REQUEST, RECEIPT = octets("disclosure request"), octets("receipt")
NAMES = tuple(f"custodian-{place}" for place in (1, 2, 3))


def vectors(frozen: Mapping[str, str]) -> Json:
    """Return the content of custody.json; envelope and sealed share are those of envelope.json."""
    envelope = bytes.fromhex(frozen["envelope"])
    sealed = bytes.fromhex(frozen["release"])
    release = sign(
        DisclosureRelease(
            request=REQUEST, receipt=RECEIPT, custodian=NAMES[1], share=sha256(sealed)
        ),
        key=signing_key(NAMES[1]),
        issuer=NAMES[1],
    )
    return {
        "keys": {name: public_bytes(signing_key(name)).hex() for name in NAMES},
        "receipt": RECEIPT.hex(),
        "envelope": envelope_hash(envelope).hex(),
        "release": release.hex(),
        "messages": {
            "answer_with_release": CaseAnswer(release=release).to_cbor().hex(),
            "answer_with_report": CaseAnswer(report=report(envelope, 0)).to_cbor().hex(),
            "share_request": ShareRequest(REQUEST, "a tlog-proof\n").to_cbor().hex(),
            "share_answer": ShareAnswer(sealed).to_cbor().hex(),
        },
        "mixed": [
            {
                "name": name,
                "request": context.request.hex(),
                "custodian": context.custodian.hex(),
                "ctx": context.ctx.hex(),
                "kc": context.kc.hex(),
                "error": "UNREADABLE",
            }
            for name, context in _mixed(envelope)
        ],
        "blame": [
            {"name": name, "reports": [raw.hex() for raw in reports], "escrow_is_bad": bad}
            for name, reports, bad in _blame(envelope)
        ],
    }


def report(envelope: bytes, place: int, /, **changes: object) -> bytes:
    """Return the escrow report of a custodian of the envelope, with changes."""
    value = EscrowReport(
        request=REQUEST,
        receipt=RECEIPT,
        envelope=envelope_hash(envelope),
        custodian=NAMES[place],
        key=hpke_key(CUSTODIANS[place]).key_id,
    )
    return sign(
        replace(value, **changes),  # type: ignore[arg-type]
        key=signing_key(NAMES[place]),
        issuer=NAMES[place],
    )


def _mixed(envelope: bytes) -> list[tuple[str, ReleaseContext]]:
    """Contexts in which the frozen share must not open."""
    found = Envelope.from_bytes(envelope)
    own = ReleaseContext(REQUEST, hpke_key(CUSTODIANS[1]).key_id, found.header.ctx, found.kc)
    return [
        ("of another disclosure request", replace(own, request=octets("another request"))),
        ("of another custodian", replace(own, custodian=hpke_key(CUSTODIANS[0]).key_id)),
        ("of another envelope", replace(own, ctx=octets("another ctx"))),
        ("under another key commitment", replace(own, kc=octets("another kc"))),
    ]


def _blame(envelope: bytes) -> list[tuple[str, list[bytes], bool]]:
    """Reports about an envelope for three custodians, two of whom suffice: two reports leave one."""
    first, second = report(envelope, 0), report(envelope, 1)
    return [
        ("two custodians", [first, second], True),
        ("one custodian", [first], False),
        ("one custodian twice", [first, report(envelope, 0, request=octets("confirm"))], False),
        ("one wrap twice", [first, report(envelope, 1, key=hpke_key(CUSTODIANS[0]).key_id)], False),
        ("another receipt", [first, report(envelope, 1, receipt=octets("another"))], False),
        ("another envelope", [first, report(envelope, 1, envelope=octets("another"))], False),
        (
            "a key that the header does not name",
            [first, report(envelope, 1, key=octets("x"))],
            False,
        ),
    ]
