"""The envelope of one request under way: sealed once for its candidates, each of whom can read it and is ordered from at most once
with it (protocol §3.8). A retry at another candidate is a fresh order for the same envelope; anywhere else it is a fresh envelope.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from execution_layer.client.entries import NodeEntry
from execution_layer.client.wanted import Terms, Wanted
from shared.envelope.header import MAX_CANDIDATES
from shared.envelope.sealing import Candidate, SealedRequest, seal_request
from shared.envelope.stages import ChainStage
from shared.statements.request import RequestBody


@dataclass(slots=True)
class _Sealed:
    request: SealedRequest
    body: RequestBody
    unused: set[bytes]
    """Entries of the key bundles of candidates who were not ordered from yet."""

    def serves(self, node: NodeEntry, wanted: Wanted, until_ms: int) -> bool:
        """Return whether the node is a candidate who was not ordered from, of just this, in an envelope that is valid so long."""
        timely = self.request.header.expiry >= until_ms
        return node.entry in self.unused and self.body == wanted.body and timely


class Envelopes:
    """Seals the attempts at one request."""

    def __init__(self) -> None:
        self._last: _Sealed | None = None

    def seal(
        self, terms: Terms, node: NodeEntry, beside: Sequence[NodeEntry], wanted: Wanted, now: int
    ) -> SealedRequest:
        """Return the envelope for an order to a node: the last one if it serves, else one for the node and those beside it. That of
        a chain is for its head and stages alone.
        """
        last = self._last
        if last is None or not last.serves(node, wanted, now + terms.expiry_ms // 2):
            candidates = (node, *(() if node.stages else beside))[:MAX_CANDIDATES]
            request = seal_request(
                wanted.body,
                tenant=terms.tenant,
                candidates=[Candidate(one.entry, one.bundle.hpke_key) for one in candidates],
                custodians=terms.custodians,
                threshold=terms.threshold,
                model_root=wanted.model_root,
                max_output_tokens=wanted.body.settings.max_tokens,
                policy=terms.policy,
                expiry_ms=now + terms.expiry_ms,
                stages=[ChainStage(one.entry, one.bundle.hpke_key) for one in node.stages],
            )
            last = self._last = _Sealed(request, wanted.body, {one.entry for one in candidates})
        last.unused.discard(node.entry)
        return last.request
