"""What a checkpoint recommends for sampling (`generation_config.json`). A recommendation, and nothing more.

`counterfoil model show` prints it, and an application may copy it into the settings that it seals. The sealed request's settings
always apply: neither node nor auditor reads these defaults, so nothing is ever chosen for a tenant silently. Only the stop
tokens in that file take effect (`ModelConfig.from_folder`). Fields that a request cannot set, and that would change what is
generated, are refused when the model is loaded (`check_generation`).
"""

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import read_json, read_json_if_there, shown

NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")
RECOMMENDED: Final = frozenset(
    {*NUMBERS, "do_sample", "top_k", "max_length", "max_new_tokens", "num_return_sequences"}
)
"""Fields that a request sets itself."""
WITHOUT_EFFECT: Final = frozenset(
    {
        *("transformers_version", "_from_model_config", "_commit_hash"),
        *("bos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("compile_config", "disable_compile", "prefill_chunk_size", "continuous_batching_config"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "return_legacy_cache", "renormalize_logits", "max_time"),
        *("early_stopping", "length_penalty"),  # for beams, which are refused
        # Draft tokens, which the model then accepts or rejects.
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "use_mtp"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("assistant_ensemble_weight", "target_lookbehind", "speculation_type"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size"),
    }
)
PERMITTED: Final[dict[str, tuple[object, ...]]] = {
    **dict.fromkeys(
        (
            *("bad_words_ids", "begin_suppress_tokens", "constraints", "dola_layers"),
            *("exponential_decay_length_penalty", "force_words_ids", "forced_bos_token_id"),
            *("forced_eos_token_id", "penalty_alpha", "sequence_bias", "stop_strings"),
            *("suppress_tokens", "top_h", "watermarking_config"),
        ),
        (None,),
    ),
    **dict.fromkeys(
        (
            *("diversity_penalty", "encoder_no_repeat_ngram_size", "epsilon_cutoff", "eta_cutoff"),
            *("min_length", "min_new_tokens", "no_repeat_ngram_size"),
        ),
        (None, 0),
    ),
    **dict.fromkeys(
        (
            *("encoder_repetition_penalty", "guidance_scale", "num_beam_groups", "num_beams"),
            "typical_p",
        ),
        (None, 1),
    ),
    **dict.fromkeys(("remove_invalid_values", "token_healing"), (None, False)),
}
"""Fields that would change what is generated and that no request can set, with the values that do nothing."""


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Recommended settings; None if the checkpoint does not say."""

    do_sample: bool | None = None
    """False recommends greedy decoding."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read the file if there is one; MALFORMED names an invalid field."""
        return cls.from_json(read_json_if_there(folder / "generation_config.json"))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read a parsed `generation_config.json`."""
        flag, top_k = data.get("do_sample"), data.get("top_k")
        if flag is not None and not isinstance(flag, bool):
            raise _senseless("do_sample")
        if top_k is not None and (type(top_k) is not int or not 0 <= top_k <= 1 << 24):
            raise _senseless("top_k")
        numbers = {}
        for name in NUMBERS:
            value = data.get(name)
            if value is not None and (
                not (type(value) is int or type(value) is float) or not 0 <= value <= 1000
            ):
                raise _senseless(name)
            numbers[name] = None if value is None else float(value)
        return cls(do_sample=flag, top_k=top_k, **numbers)


def check_generation(data: dict[str, Any]) -> None:
    """Raise UNSUPPORTED, naming the field, for a parsed file that requires something not implemented, or unknown."""
    for name, value in data.items():
        if name == "eos_token_id" or name in RECOMMENDED or name in WITHOUT_EFFECT:
            continue
        if name not in PERMITTED or value not in PERMITTED[name]:
            raise CounterfoilError(
                Code.UNSUPPORTED,
                f"generation_config.json: {shown(name)} = {reprlib.repr(value)} is not supported",
            )


def stop_tokens(folder: Path) -> tuple[int, ...]:
    """Return the tokens that end an answer: the end-of-sequence tokens of `config.json` and `generation_config.json`."""
    config = read_json(folder / "config.json")
    generation = read_json_if_there(folder / "generation_config.json")
    found = {
        *token_ids(config.get("eos_token_id"), "config.json"),
        *token_ids(generation.get("eos_token_id"), "generation_config.json"),
    }
    return tuple(sorted(found))


def token_ids(value: object, file: str) -> tuple[int, ...]:
    """Read a file's `eos_token_id`: a token, several, or none."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(item) is int and item >= 0 for item in items):
        raise CounterfoilError(
            Code.MALFORMED, f"{file}: eos_token_id is not a token or a list of tokens"
        )
    return tuple(sorted(set(items)))


def _senseless(name: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"generation_config.json: {name} is not valid")
