"""What a stage serves, and what a first stage's chain is made of."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from shared.codec.ids import NAME
from shared.model.cut import layers_of
from shared.runtime.config import Settings
from shared.runtime.metrics_server import MetricsSettings
from shared.runtime.party import PartyListener
from shared.runtime.tls import TlsFiles
from shared.runtime.traffic import Traffic


def _check(text: str) -> str:
    layers_of(text)
    return text


LayerRange = Annotated[str, AfterValidator(_check)]
PartyName = Annotated[str, Field(max_length=129)]
NodeId = Annotated[str, Field(pattern=rf"^{NAME.pattern}/{NAME.pattern}$")]
"""OPERATOR/NODE."""


class ChainStage(Settings):
    """One stage of a chain, as the first one calls it."""

    address: str
    """host:port where the stage serves parties."""
    layers: LayerRange
    """The layers that it computes, FIRST:LAST without LAST."""
    name: NodeId | None = None
    """OPERATOR/NODE of a stage that answers for itself: a node of whichever operator, with orders and receipts of its own.
    Without it, the stage is one of the node's own operator, who answers for it."""
    spares: Annotated[tuple[str, ...], Field(max_length=8)] = ()
    """host:port of stages with the same layers, which are asked in this order while the one at `address` is not ready; only for
    a stage without a name: an order names one node."""


class Chain(Settings):
    """The stages that compute the layers which a node does not compute itself. The last one's range ends with the model."""

    stages: Annotated[tuple[ChainStage, ...], Field(min_length=1, max_length=64)]
    """In order."""
    ca: Path
    """The authority of the stages' server certificates (PEM)."""
    steps: Annotated[int, Field(ge=0, le=256)] = 0
    """Steps under way at once. 0: as many as fill the chain, by what its steps are measured to take; with a round trip of L
    between stages that take t for a step, S · (1 + L / t) fill S stages."""
    patience_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How long the node tries to connect its chain again before the requests that wait for it fail."""
    stall_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """How long nothing may come of a step before the chain counts as dead, and is connected again."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if any(stage.name is not None and stage.spares for stage in self.stages):
            raise ValueError("a stage with a name has no spares: an order names one node")
        named = [stage.name for stage in self.stages if stage.name is not None]
        if named and (len(named) != len(self.stages) or len(set(named)) != len(named)):
            raise ValueError("either all stages of a chain have a name, each its own, or none has")
        return self

    @property
    def accountable(self) -> bool:
        """Whether every stage answers for itself (protocol §4.10)."""
        return self.names is not None

    @property
    def names(self) -> tuple[str, ...] | None:
        """The stages of an accountable chain, in order; None if the node's operator answers for all of them."""
        return tuple(stage.name for stage in self.stages if stage.name is not None) or None


class StageWork(Settings):
    """What a node computes as a stage of accountable chains (protocol §4.10), instead of answering."""

    layers: LayerRange
    """FIRST:LAST without LAST."""
    callers: Annotated[tuple[NodeId, ...], Field(min_length=1)]
    """The heads, OPERATOR/NODE, that may have it compute, and the stages before it in their chains; of whichever operators."""
    next_ca: Path
    """The authorities of the server certificates of the stages that may follow (PEM)."""


class StageSettings(Settings):
    """Everything that `counterfoil node stage serve` needs."""

    name: PartyName
    """OPERATOR/NAME, as its certificate has it."""
    model: Path
    """Folder of the checkpoint (Hugging Face layout), or of a part that has the layers. Of the tensors, only those of the layers
    are kept in memory."""
    layers: LayerRange
    """The layers that this stage computes, FIRST:LAST without LAST."""
    callers: Annotated[tuple[PartyName, ...], Field(min_length=1)]
    """The nodes, OPERATOR/NODE, that may use it: those of one chain, all of the same operator's."""
    next_ca: Path
    """The authority of the server certificates of the stages that may follow (PEM)."""
    address: str = "127.0.0.1:0"
    """Where health is asked for."""
    threads: Annotated[int, Field(ge=1, le=512)] = 1
    arithmetic: str = "auto"
    """As in `node.toml`; all stages of a chain need the same."""
    kv_memory_mib: Annotated[int, Field(ge=1, le=2**22)] = 512
    """Memory for keys and values."""
    tls: TlsFiles
    party: PartyListener
    traffic: Traffic = Traffic()
    metrics: MetricsSettings | None = None
    """Where Prometheus scrapes this process; nowhere, if there is no such table."""
