"""A chain of a head and two stages: secrets, commitments, hop records and roots (protocol §4.10)."""

from shared.codec.hashing import labelled_hash
from shared.envelope.boundary import boundary_root, row_hashes
from shared.envelope.header import Header
from shared.envelope.stages import BoundarySecret, HopSealer, header_stages
from tests.vectors.files import Json
from tests.vectors.samples import NOW, octets

TS = octets("transcript secret of a chain")
STAGES = (octets("stage 1"), octets("stage 2"))
WIDTH = 3
COUNTS = (1, 32, 33, 70)
"""Positions of which there are roots."""


def header() -> Header:
    """Return the header of the chain's envelope."""
    return Header(
        request=octets("request id")[:16],
        tenant="acme",
        candidates=(octets("bundle"),),
        model_root=octets("model"),
        max_output_tokens=64,
        policy=octets("policy"),
        threshold=2,
        shares=(octets("share 1"), octets("share 2"), octets("share 3")),
        custodians=(octets("custodian 1"), octets("custodian 2"), octets("custodian 3")),
        expiry=NOW + 60_000,
        padded=256,
        stages=header_stages(TS, STAGES),
    )


def states(count: int) -> bytes:
    """Return `count` rows of three float32 numbers."""
    return b"".join(octets(f"state {row}")[: 4 * WIDTH] for row in range(count))


def vectors() -> Json:
    """Return the vectors' file."""
    asked, nonce = header(), octets("hop nonce")
    secret = BoundarySecret.derive(TS, 1)
    hop, records, position = HopSealer(secret, asked.ctx, nonce), [], 0
    for count in (2, 1):
        plain = states(position + count)[4 * WIDTH * position :]
        sealed = hop.seal(position, count, plain)
        records.append(
            {"position": position, "count": count, "states": plain.hex(), "sealed": sealed.hex()}
        )
        position += count
    return {
        "transcript_secret": TS.hex(),
        "stages": [entry.hex() for entry in STAGES],
        "boundaries": [BoundarySecret.derive(TS, index).secret.hex() for index in range(3)],
        "keys": [stage.keys.hex() for stage in asked.stages or ()],
        "header": asked.to_cbor().hex(),
        "ctx": asked.ctx.hex(),
        "hop": {
            "boundary": 1,
            "nonce": nonce.hex(),
            "h_0": labelled_hash("hop", asked.ctx, b"\x01", nonce).hex(),
            "records": records,
        },
        "roots": [
            {
                "boundary": 1,
                "states": states(count).hex(),
                "width": WIDTH,
                "root": boundary_root(secret, row_hashes(states(count), count)).hex(),
            }
            for count in COUNTS
        ],
    }
