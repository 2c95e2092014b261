"""Every family against transformers: the same logits and the same greedy text, in float32.

The models are made on the spot, with weights so large that logits differ clearly. Both programs sum the same few hundred products
in their own order; 1e-4 is well above the difference that makes to a logit here, and far below that of a wrong rotation, window,
bias or norm (the last tests show it). Prompts are longer than the window and than a KV block.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig

from shared.model.backend import Span, blocks_for
from shared.model.decoder import Decoder
from tests.shared.model import tiny
from tests.shared.text.backends import SHIPPED

TOLERANCE = 1e-4
VOCABULARY = 300
PROMPT = 100
ANSWER = 200
WINDOW = 40
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
WIDE = {"head_dim": 64, "num_key_value_heads": 4}
SWITCHED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
CASES: dict[str, dict[str, object]] = {
    "llama": {"model_type": "llama"},
    "llama, tied, every head with its own keys": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "num_key_value_heads": 4,
    },
    "llama, llama3 scaling": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama, linear scaling": {"model_type": "llama", "rope_parameters": LINEAR},
    "llama, wide heads": {"model_type": "llama", **WIDE},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral, window": {"model_type": "mistral", "sliding_window": WINDOW},
    "mistral, window of a block": {"model_type": "mistral", "sliding_window": 64},
    "qwen2, tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2, window from layer 1": {"model_type": "qwen2", **SWITCHED},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "qwen3, tied, wide heads, windows": {
        "model_type": "qwen3",
        "tie_word_embeddings": True,
        **WIDE,
        **SWITCHED,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_hidden_layers": 3,
    },
}


def made(**changes: Any) -> PreTrainedModel:
    """A small random model whose norms and biases are not the neutral ones."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.12,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **changes,
    }
    torch.manual_seed(7)
    config = AutoConfig.for_model(**settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def prompt(length: int = PROMPT, vocabulary: int = VOCABULARY) -> list[int]:
    return torch.randint(vocabulary, (length,), generator=torch.manual_seed(11)).tolist()


class Ours:
    """One sequence in a cache of our decoder. All that these tests know about it is in here."""

    def __init__(self, decoder: Decoder, positions: int) -> None:
        self._decoder = decoder
        self._blocks = range(1, blocks_for(positions, decoder.backend.block) + 1)
        self._cache = decoder.cache(len(self._blocks))
        self._length = 0

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Take tokens in one pass; return their logits (tokens, V)."""
        span = Span(tokens, self._length, self._blocks)
        self._length += len(tokens)
        return self._decoder.logits(self._decoder.forward([span], self._cache))

    @classmethod
    def all_logits(cls, decoder: Decoder, tokens: Sequence[int], passes: int = 1) -> Tensor:
        one = cls(decoder, len(tokens))
        edges = [len(tokens) * part // passes for part in range(passes + 1)]
        return torch.cat([one.logits(tokens[a:b]) for a, b in pairwise(edges)])


def theirs(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([tokens])).logits[0]
    return logits.float()


def greedy(decoder: Decoder, tokens: Sequence[int], count: int) -> list[int]:
    one = Ours(decoder, len(tokens) + count)
    last = one.logits(tokens)[-1:]
    chosen: list[int] = []
    while len(chosen) < count:
        chosen.append(int(last.argmax()))
        last = one.logits(chosen[-1:])
    return chosen


def greedy_of_transformers(model: PreTrainedModel, tokens: Sequence[int], count: int) -> list[int]:
    """Their own cached decoding, one token a pass."""
    chosen: list[int] = []
    fed, cache = torch.tensor([tokens]), DynamicCache(config=model.config)
    with torch.inference_mode():
        while len(chosen) < count:
            chosen.append(int(model(fed, cache=cache).logits[0, -1].argmax()))
            fed = torch.tensor([[chosen[-1]]])
    return chosen


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory) -> tuple[PreTrainedModel, Decoder]:
    model = made(**CASES[request.param])
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, tiny.load(folder)


def test_logits_are_those_of_transformers(pair):
    model, decoder = pair
    tokens = prompt()
    expected = theirs(model, tokens)
    assert expected.std() > 0.5
    for passes in (1, 3):
        assert (Ours.all_logits(decoder, tokens, passes) - expected).abs().max() < TOLERANCE


def test_greedy_text_is_that_of_transformers(pair):
    model, decoder = pair
    tokens = prompt()
    chosen = greedy(decoder, tokens, ANSWER)
    assert chosen == greedy_of_transformers(model, tokens, ANSWER)
    assert len(set(chosen)) > 1


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("mistral, window", {"sliding_window": WINDOW + 1}),
        ("mistral, window", {"sliding_window": None}),
        ("qwen2, window from layer 1", {"max_window_layers": 0, "layer_types": None}),
        ("llama, llama3 scaling", {"rope_parameters": {**LLAMA3, "low_freq_factor": 1.1}}),
        ("llama, linear scaling", {"rope_parameters": {**LINEAR, "factor": 2.01}}),
        ("qwen3", {"rms_norm_eps": 1e-3}),
    ],
)
def test_the_tolerance_is_narrow_enough_to_see_a_wrong_setting(case, changes, tmp_path):
    model = made(**CASES[case])
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    wrong = Ours.all_logits(tiny.load(tmp_path), prompt())
    assert (wrong - theirs(model, prompt())).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["q_proj.bias", "v_proj.bias", "q_norm.weight", "k_norm.weight"])
def test_the_tolerance_is_narrow_enough_to_see_a_bias_or_norm_left_out(name, tmp_path):
    model = made(**CASES["qwen2, tied" if "bias" in name else "qwen3"])
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    neutral = torch.zeros_like if "bias" in name else torch.ones_like
    tensors = {n: neutral(t) if n.endswith(name) else t.clone() for n, t in load_file(file).items()}
    save_file(tensors, file)
    wrong = Ours.all_logits(tiny.load(tmp_path), prompt())
    assert (wrong - theirs(model, prompt())).abs().max() > 10 * TOLERANCE


def test_a_sharded_checkpoint_of_transformers_is_the_same_model(tmp_path):
    model = made(**CASES["qwen2, tied"])
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    logits = Ours.all_logits(tiny.load(tmp_path), prompt())
    assert (logits - theirs(model, prompt())).abs().max() < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_checkpoint_stays_close_to_its_weights_in_float32(tmp_path, dtype):
    """Close only: rounding after each operation is not the same in two programs."""
    model = made(**CASES["mistral, window"], initializer_range=0.05).to(dtype)
    model.save_pretrained(tmp_path)
    ours = Ours.all_logits(tiny.load(tmp_path), prompt())
    expected = theirs(model.float(), prompt())
    bound = 0.01 if dtype is torch.float16 else 0.08
    assert (ours - expected).abs().max() < bound * expected.std()


@pytest.fixture(scope="module")
def shipped() -> PreTrainedModel:
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    return model


def test_the_shipped_model_in_float32_is_that_of_transformers(shipped, tmp_path: Path):
    """Its weights are bfloat16; upcast they are exact, so both programs start from the same numbers."""
    shipped.save_pretrained(tmp_path)
    decoder = tiny.load(tmp_path)
    assert decoder.config.dtype == "float32"
    tokens = prompt(vocabulary=2000)
    assert (Ours.all_logits(decoder, tokens) - theirs(shipped, tokens)).abs().max() < TOLERANCE
    assert greedy(decoder, tokens, 100) == greedy_of_transformers(shipped, tokens, 100)


def test_the_shipped_model_as_it_is_served_stays_close_to_its_weights_in_float32(shipped):
    tokens = prompt(vocabulary=2000)
    ours, expected = Ours.all_logits(tiny.load(SHIPPED), tokens), theirs(shipped, tokens)
    assert (ours - expected).abs().max() < 0.08 * expected.std()
