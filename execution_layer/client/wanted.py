"""What an application asks for, and what every order of a client has in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from execution_layer.client.entries import NodeEntry
from execution_layer.client.reading import ModelText
from execution_layer.client.response_check import Tokenise
from shared.envelope.body import AuditPolicy
from shared.runtime.errors import CounterfoilError
from shared.runtime.keys import Signer
from shared.statements.orders import input_bound
from shared.statements.request import RequestBody

OnText = Callable[[str], None]
OnTextOf = Callable[[int, str], None]
OnRetry = Callable[[str, CounterfoilError], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What every order of this client has in common."""

    tenant: str
    key: Signer
    custodians: tuple[bytes, ...]
    """Raw HPKE keys, in the order of the shares."""
    threshold: int
    policy: AuditPolicy
    expiry_ms: int


@dataclass(frozen=True, slots=True, repr=False)
class Wanted:
    """What the application requested."""

    body: RequestBody
    model_root: bytes
    tags: Mapping[str, str] | None
    cost_centre: bytes | None
    """The tags, blinded."""
    on_text: OnText | None
    model_text: ModelText | None
    """The model's tokenizer, if the client has it."""
    on_pause: OnRetry | None = None
    continues: bool = False
    """Whether an attempt goes on from what the attempts before it delivered."""
    on_choice: "OnChoice | None" = None
    """Called before anything is sealed or sent."""
    candidates: int = 1
    """For how many nodes an envelope is sealed; each of them can read it."""
    canary: bool = False
    """Whether it is sent to test its node: the archive notes it, and nothing that leaves says so."""

    @property
    def tokenise(self) -> Tokenise | None:
        """Return a function that gives the input's tokens, if the client can count them."""
        return None if self.model_text is None else self.model_text.tokenise(self.body)

    @property
    def input_bound(self) -> int:
        """The most prompt tokens to pay for: the prompt's exact number, if the client can count them."""
        tokenise = self.tokenise
        return input_bound(self.body) if tokenise is None else len(tokenise())

    def for_choice(self, choice: int, on_text_of: OnTextOf | None = None) -> "Wanted":
        """Return the same request for one of several answers, whose text `on_text_of` is told with the choice."""
        on_text = self.on_text if on_text_of is None else partial(on_text_of, choice)
        return replace(self, body=replace(self.body, choice=choice), on_text=on_text)


OnChoice = Callable[[Sequence[NodeEntry], Wanted], None]
