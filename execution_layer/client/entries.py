"""A node as the client uses it, once its key bundle has passed every check of the directory."""

from dataclasses import dataclass

from execution_layer.client.log_memory import AUDIT_SERVER
from shared.statements.keys import KeyBundle
from shared.translog.policy import Witnessed
from shared.verification.attestation import Claim
from shared.verification.standing import Standing


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A usable node, with the key bundle for which requests are sealed."""

    bundle: KeyBundle
    entry: bytes
    statement: bytes
    proof: str
    witnessed: Witnessed
    standing: Standing = Standing.NEW
    """As the directory says."""
    source: str = AUDIT_SERVER
    """Who listed it; for people."""
    claims: tuple[Claim, ...] = ()
    """What the key bundle's evidence shows."""
    stages: tuple["NodeEntry", ...] = ()
    """The stages of the chain whose head it is, in order; none for a node that has the whole model."""

    @property
    def name(self) -> str:
        """operator/node"""
        return self.bundle.issuer

    @property
    def places(self) -> tuple["NodeEntry", ...]:
        """It and its stages, in order: all of them see a request's states."""
        return (self, *self.stages)

    @property
    def operators(self) -> tuple[str, ...]:
        """Whose machines those are, each once, the head's first."""
        return tuple(dict.fromkeys(node.bundle.operator for node in self.places))

    def is_live(self, now_ms: int) -> bool:
        """Whether all its key bundles may be used at this time."""
        return all(node.bundle.is_live(now_ms) for node in self.places)
