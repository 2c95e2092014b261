"""Something else than the prompt that was sealed, or less of it than was paid for."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import torch

from execution_layer.engine import engine as engine_module
from execution_layer.engine.protocol import GenerationRequest
from execution_layer.engine.runner import Chosen, Runner, Step
from execution_layer.node import intake as intake_module
from execution_layer.node.admission import Admission, Admitted, Checked
from execution_layer.node.start import Start
from shared.model import decoder as decoder_module
from shared.model.config import ModelConfig
from shared.model.cpu import KVCache
from shared.runtime.errors import Code
from shared.statements.request import Message, RequestBody
from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary, patched

INSTRUCTION: Final = "Answer in one short sentence. "
WINDOW: Final = 16
"""Positions that a row attends to under `sliding-window`."""
LARGEST: Final = 448.0
"""The largest number of float8 e4m3 (arXiv 2209.05433)."""
STATES = frozenset({Reason.ACTIVATIONS})


def truncated() -> AbstractContextManager[None]:
    """Generate from the second half of the prompt; evidence and receipt speak of all of it."""
    ordinary = intake_module._generation_request

    def shortened(admitted: Admitted, start: Start) -> GenerationRequest:
        request = ordinary(admitted, start)
        return replace(request, prompt_ids=request.prompt_ids[len(request.prompt_ids) // 2 :])

    return patched((intake_module, "_generation_request", shortened))


def windowed() -> AbstractContextManager[None]:
    """Have every layer attend to the last few positions only."""

    def from_folder(folder: Path) -> ModelConfig:
        config = ModelConfig.from_folder(folder)
        return replace(config, layer_windows=(WINDOW,) * config.layers)

    return patched((decoder_module, "ModelConfig", SimpleNamespace(from_folder=from_folder)))


class RoundingRunner(Runner):
    """Rounds keys and values to eight bits once a pass has stored them, as engines do to halve their memory."""

    def end(self, step: Step) -> Chosen:
        sampled = super().end(step)
        assert isinstance(self._cache, KVCache)
        used = sorted({block for span in step.spans for block in span.blocks})
        for tensor in (*self._cache.keys, *self._cache.values):
            stored = tensor[used].clamp(-LARGEST, LARGEST)
            tensor[used] = stored.to(torch.float8_e4m3fn).to(tensor.dtype)
        return sampled


def instructed(body: RequestBody) -> RequestBody:
    """Return a request with words of the node's own before those of the tenant."""
    if body.prompt is not None:
        return replace(body, prompt=INSTRUCTION + body.prompt)
    first, *rest = body.messages
    if first.role == "system":
        return replace(body, messages=(Message("system", INSTRUCTION + first.content), *rest))
    return replace(body, messages=(Message("system", INSTRUCTION), first, *rest))


@contextmanager
def prompt_changed(*, told: bool) -> Iterator[None]:
    """Generate from another prompt: the receipt and the evidence say so (`told`), or speak of the tenant's own."""
    ordinary_open, ordinary_request = Admission.open, intake_module._generation_request
    hidden: dict[bytes, tuple[int, ...]] = {}

    def opened(self: Admission, checked: Checked, now_ms: int) -> Admitted:
        admitted = ordinary_open(self, checked, now_ms)
        altered = self._model.tokenise(instructed(admitted.opened.body))
        if told:
            return replace(admitted, prompt_ids=altered)
        hidden[admitted.order_entry] = altered
        return admitted

    def request(admitted: Admitted, start: Start) -> GenerationRequest:
        prompt = hidden.pop(admitted.order_entry, admitted.prompt_ids)
        return replace(ordinary_request(admitted, start), prompt_ids=prompt)

    with patched((Admission, "open", opened), (intake_module, "_generation_request", request)):
        yield


ADVERSARIES = (
    Adversary(
        "truncated-context",
        "answers from the second half of the prompt and bills all of it",
        truncated,
        STATES,
    ),
    Adversary(
        "sliding-window",
        f"lets every layer attend to the last {WINDOW} positions only",
        windowed,
        STATES,
    ),
    Adversary(
        "fp8-cache",
        "keeps keys and values in eight bits",
        lambda: patched((engine_module, "Runner", RoundingRunner)),
        STATES,
    ),
    Adversary(
        "hidden-instruction",
        "puts an instruction of its own before the prompt and does not say so",
        lambda: prompt_changed(told=False),
        STATES,
    ),
    Adversary(
        "own-instruction",
        "puts an instruction of its own before the prompt and bills it",
        lambda: prompt_changed(told=True),
        frozenset({Reason.INPUT}),
        frozenset({Code.COMMITMENT_MISMATCH}),
    ),
)
