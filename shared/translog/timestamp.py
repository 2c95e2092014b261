"""RFC 3161 timestamps over checkpoints: a third party's word for when a tree head existed.

The timestamp covers the SHA-256 of the checkpoint's note text, `Checkpoint.body`: the three lines origin,
size and root, each with its newline. It is the same in every copy of the checkpoint, whoever signed or
cosigned it, and can always be recomputed from the entries alone. A timestamp is the whole TimeStampResp
(RFC 3161 §2.4.2), as `openssl ts -verify -data TEXT -in REPLY -CAfile ANCHORS` accepts it.

The certificates are validated as of the time that the reply states. Revocation is not checked: an authority
that lost its key has to be removed from the anchors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from cryptography.x509 import Certificate, load_pem_x509_certificates
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)
from rfc3161_client.tsp import PKIStatus

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint

QUERY_TYPE: Final = "application/timestamp-query"
"""Content type of a query (RFC 3161 §3.4)."""
REPLY_TYPE: Final = "application/timestamp-reply"
"""Content type of a reply."""
MAX_REPLY_BYTES: Final = 32 * 1024
"""Room for a chain of several certificates."""
MAX_ANCHORS_BYTES: Final = 256 * 1024
_SHA256_OID: Final = "2.16.840.1.101.3.4.2.1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Query:
    """A query to an authority: the DER of a TimeStampReq, and the nonce that the reply must repeat."""

    der: bytes
    nonce: int


def query_for(checkpoint: Checkpoint) -> Query:
    """Return a new query over a checkpoint that also requests the authority's certificate."""
    request = (
        TimestampRequestBuilder()
        .data(checkpoint.body.encode())
        .hash_algorithm(HashAlgorithm.SHA256)
        .nonce(nonce=True)
        .cert_request(cert_request=True)
        .build()
    )
    if request.nonce is None:
        raise CounterfoilError(Code.INTERNAL, "a timestamp query was made without a nonce")
    return Query(request.as_bytes(), request.nonce)


def parse_anchors(pem: bytes) -> tuple[Certificate, ...]:
    """Return the certificates of a PEM file, at least one; otherwise MALFORMED."""
    try:
        if len(pem) > MAX_ANCHORS_BYTES:
            raise ValueError(f"it is larger than {MAX_ANCHORS_BYTES} bytes")  # noqa: TRY301
        return tuple(load_pem_x509_certificates(pem))
    except ValueError as e:
        raise CounterfoilError(
            Code.MALFORMED,
            f"the timestamp authority's anchors are not certificates in PEM form: {e}",
        ) from e


def verify_timestamp(
    reply: bytes,
    checkpoint: Checkpoint,
    anchors: Sequence[Certificate],
    *,
    nonce: int | None = None,
) -> int:
    """Return when an authority under one of the anchors saw the checkpoint, in ms.

    With `nonce` the reply must answer that query. Errors: UNTRUSTED_KEY without anchors, MALFORMED for
    anything but a complete, granted reply in DER, BAD_PROOF if it is about something else,
    BAD_SIGNATURE if no anchor leads to its signature or the signer may not issue timestamps.
    """
    if not anchors:
        raise CounterfoilError(Code.UNTRUSTED_KEY, "no timestamp authority is trusted")
    if len(reply) > MAX_REPLY_BYTES:
        raise CounterfoilError(
            Code.MALFORMED, f"a timestamp reply is larger than {MAX_REPLY_BYTES} bytes"
        )
    digest = sha256(checkpoint.body.encode()).digest()
    try:
        response = decode_timestamp_response(reply)
        time_ms = _stated(response, digest, nonce)
        VerifierBuilder(roots=list(anchors), nonce=nonce).build().verify(response, digest)
    except VerificationError as e:
        raise CounterfoilError(
            Code.BAD_SIGNATURE, f"a timestamp is not from a trusted authority: {e}"
        ) from e
    except (ValueError, OverflowError) as e:
        raise CounterfoilError(
            Code.MALFORMED, f"a timestamp reply cannot be read: {str(e)[:200]}"
        ) from e
    return time_ms


def _stated(response: TimeStampResponse, digest: bytes, nonce: int | None) -> int:
    """Return the time that a reply states, if it is granted and about this digest; its signature is not yet verified."""
    if response.status != PKIStatus.GRANTED:
        raise CounterfoilError(
            Code.MALFORMED, f"the timestamp was not granted: PKIStatus {response.status}"
        )
    info = response.tst_info
    imprint = info.message_imprint
    if imprint.hash_algorithm.dotted_string != _SHA256_OID or imprint.message != digest:
        raise CounterfoilError(Code.BAD_PROOF, "the timestamp is not about this checkpoint")
    if nonce is not None and info.nonce != nonce:
        raise CounterfoilError(Code.BAD_PROOF, "the timestamp answers another query")
    moment = info.gen_time - _EPOCH
    return (moment.days * 86_400 + moment.seconds) * 1000 + moment.microseconds // 1000
