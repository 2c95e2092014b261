"""One sealed request and its keys, for the tests of this package."""

from shared.envelope.body import Audit, AuditPolicy
from shared.envelope.sealing import Candidate, SealedRequest, seal_request
from shared.statements.request import Message, RequestBody, SamplingSettings
from tests.vectors.samples import NOW, hpke_key, octets

NODE, OTHER_NODE, WORKER = hpke_key("node"), hpke_key("other node"), hpke_key("worker")
CUSTODIANS = [hpke_key(f"custodian {i}") for i in (1, 2, 3)]
BUNDLE, OTHER_BUNDLE = octets("bundle"), octets("other bundle")
BODY = RequestBody(
    settings=SamplingSettings(max_tokens=16), messages=(Message("user", "Grüße, 世界 👋"),)
)


def sealed_request(body: RequestBody = BODY, **changes) -> SealedRequest:
    """Seal for one node and three custodians, two of whom suffice."""
    arguments = {
        "tenant": "acme",
        "candidates": [Candidate(BUNDLE, NODE.public_bytes)],
        "custodians": [key.public_bytes for key in CUSTODIANS],
        "threshold": 2,
        "model_root": octets("model"),
        "max_output_tokens": 16,
        "policy": AuditPolicy(Audit.SAMPLED),
        "expiry_ms": NOW + 1000,
    }
    return seal_request(body, **{**arguments, **changes})
