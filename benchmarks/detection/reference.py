"""A verifier as the published schemes have it: the same checkpoint, but not the node's arithmetic, so that it sees honest noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from benchmarks.detection.baselines import activation_difr, token_difr, toploc
from benchmarks.detection.baselines.bits import Bits, Values, to_bits, to_values
from benchmarks.detection.traces import States
from shared.model.backend import Span, blocks_for
from shared.model.config import ModelConfig
from shared.model.cpu import CpuBackend
from shared.model.decoder import Decoder
from shared.model.sampler import Sampler
from shared.model.weights import DTYPES, load_weights
from shared.statements.request import PPM, RequestBody
from tests.adversaries.trial import MODEL, Tried

NODE: Final = "pairs-32"
"""The arithmetic of every node here: that of a matrix unit."""
VERIFIERS: Final = ("bfloat16", "float32", "transformers")
"""Other orders of sums in the node's dtype (`chain-1`), numbers that are not rounded to it (`chain-1` too), and another program."""
SCHEMES: Final = ("toploc", "activation-difr", "token-difr")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a verifier computes of one answer of N tokens to a prompt of P."""

    states: Values
    """(P + N − 1, D)."""
    prompt: int
    """P."""
    margins: NDArray[np.float64]
    """Token-DiFR's, (N,)."""

    @property
    def matches(self) -> int:
        """How many of the answer's tokens the verifier would have chosen."""
        return int((self.margins == 0).sum())


class Model(Protocol):
    """A checkpoint as a verifier computes it."""

    def forward(self, tokens: Sequence[int]) -> Tensor:
        """Return final hidden states (tokens, D)."""

    def logits(self, hidden: Tensor) -> NDArray[np.float32]:
        """Return the logits (rows, V) of final hidden states."""


class Ours:
    """This project's own pass in `chain-1`."""

    def __init__(self, dtype: str) -> None:
        config = ModelConfig.from_folder(MODEL)
        weights = {name: one.to(DTYPES[dtype]) for name, one in load_weights(MODEL, config).items()}
        self._decoder = Decoder(replace(config, dtype=dtype), weights, CpuBackend(1, "chain-1"))

    def forward(self, tokens: Sequence[int]) -> Tensor:
        held = range(1, blocks_for(len(tokens), self._decoder.backend.block) + 1)
        return self._decoder.forward([Span(tokens, 0, held)], self._decoder.cache(len(held)))

    def logits(self, hidden: Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._decoder.logits(hidden).numpy()
        return found


class Transformers:
    """The transformers library in bfloat16, with torch's kernels; logits in float32, which is kinder than its own bfloat16."""

    def __init__(self) -> None:
        logging.disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        self._head = self._model.lm_head.weight.detach().float()

    def forward(self, tokens: Sequence[int]) -> Tensor:
        with torch.no_grad():
            found: Tensor = self._model.model(torch.tensor([tokens])).last_hidden_state[0]
        return found

    def logits(self, hidden: Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (hidden.float() @ self._head.T).numpy()
        return found


class Verifier:
    """Makes references by one teacher-forced pass each."""

    def __init__(self, name: str) -> None:
        self._model: Model = Transformers() if name == "transformers" else Ours(name)

    def reference(self, tried: Tried, body: RequestBody) -> Reference | None:
        """Return what is to be compared with an answer; None without a token, when there is nothing to compare."""
        prompt, output = tried.prompt_ids, tried.output_ids
        if not output:
            return None
        hidden = self._model.forward([*prompt, *output[:-1]])
        logits = self._model.logits(hidden[len(prompt) - 1 :])
        return Reference(hidden.float().numpy(), len(prompt), _margins(logits, output, body))


def _margins(
    logits: NDArray[np.float32], output: Sequence[int], body: RequestBody
) -> NDArray[np.float64]:
    settings = body.settings
    assert body.seed is not None
    sampler = Sampler(settings, body.seed, body.choice)
    scores = [
        token_difr.perturbed(
            row,
            sampler.noise(position, len(row)) if settings.temperature_ppm else None,
            settings.temperature_ppm / PPM,
            top_k=settings.top_k,
            top_p=settings.top_p_ppm / PPM,
            min_p=(settings.min_p_ppm or 0) / PPM,
        )
        for position, row in enumerate(logits)
    ]
    return token_difr.margins(scores, output)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a node sends under TOPLOC and Activation-DiFR."""

    proofs: tuple[bytes | None, ...]
    """Of the prompt, and of every 32 decoded tokens; None for a prompt that was not all computed for this request."""
    fingerprints: NDArray[np.float16]


def sent(states: States) -> Sent:
    """Return what follows from a node's states. TOPLOC counts the prompt's last position to the prompt."""
    prompt = None if states.prompt is None else toploc.prove(states.prompt)
    decoded = [toploc.prove(chunk) for chunk in chunks(states.output[1:])]
    return Sent((prompt, *decoded), activation_difr.fingerprint(to_values(states.output)))


def chunks(rows: Bits) -> list[Bits]:
    """Part decoded positions as TOPLOC does."""
    return [rows[first : first + toploc.CHUNK] for first in range(0, len(rows), toploc.CHUNK)]


def scores(given: Sent | None, reference: Reference | None) -> dict[str, float]:
    """Return each scheme's score of one answer, 0 where it looks at nothing, infinite where what it needs was not sent.

    TOPLOC has no rule for the number of proofs: those that are there are compared, and the largest score counts.
    """
    if reference is None:
        return dict.fromkeys(SCHEMES, 0.0)
    tokens = float(reference.margins.mean())
    if given is None:
        return {"toploc": np.inf, "activation-difr": np.inf, "token-difr": tokens}
    bits, own = to_bits(reference.states), reference.states[reference.prompt - 1 :]
    expected = [bits[: reference.prompt], *chunks(bits[reference.prompt :])]
    pairs = zip(given.proofs, expected, strict=False)
    compared = [toploc.compare(proof, part).score for proof, part in pairs if proof is not None]
    distances = (
        float(activation_difr.scores(given.fingerprints, own).mean())
        if len(given.fingerprints) == len(own)
        else np.inf
    )
    return {
        "toploc": max(compared, default=0.0),
        "activation-difr": distances,
        "token-difr": tokens,
    }
