"""Every parameter of the API, and what becomes of it: the one table, from which docs/proxy-parameters.md is made. Pure.

What changes an answer is either done or refused by name; nothing that an application asks for is left out silently. What an
answer does not depend on is ignored, and so is what the table does not know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from shared.runtime.errors import Code, CounterfoilError


class Standing(StrEnum):
    """What becomes of a parameter."""

    SUPPORTED = "supported"
    REFUSED = "refused"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a request."""

    name: str
    standing: Standing
    note: str
    harmless: tuple[Any, ...] = ()
    """Values of a refused one that ask for nothing; null is always one."""


def _supported(name: str, note: str) -> Parameter:
    return Parameter(name, Standing.SUPPORTED, note)


def _refused(name: str, note: str, *harmless: Any) -> Parameter:
    return Parameter(name, Standing.REFUSED, note, harmless)


def _ignored(name: str, note: str) -> Parameter:
    return Parameter(name, Standing.IGNORED, note)


_SAMPLING: Final = (
    _supported("temperature", "0 to 2 [1]; 0 is greedy"),
    _supported("top_p", "above 0, at most 1 [1]"),
    _supported("presence_penalty", "−2 to 2 [0]"),
    _supported("frequency_penalty", "−2 to 2 [0]"),
    _supported("stop", "a text or up to 8, each up to 256 bytes"),
    _supported("seed", "a whole number of 64 bits; without it every answer has its own"),
    _supported(
        "n", "1 to 16 [1]: each answer is an order of its own, with its own receipt and bill"
    ),
    _supported("top_k", "beyond the API: 0 is off [0]"),
    _supported("min_p", "beyond the API: 0 is off [0]"),
    _supported("repetition_penalty", "beyond the API: 1 is off [1]"),
    _refused("logit_bias", "no setting of this kind is sealed and replayed", {}),
)
_FLOW: Final = (
    _supported("model", "a name from `[models]` of proxy.toml"),
    _supported("stream", "server-sent events; the last chunk says that the receipt was checked"),
    _supported("stream_options", "`include_usage`; others are ignored"),
    _ignored("user", "the key says whose request it is"),
)
CHAT: Final = (
    _supported(
        "messages",
        "up to 256 of system, developer (as system), user and assistant; content is text, or parts of type `text`",
    ),
    *_FLOW,
    _supported("max_completion_tokens", "up to the node's limit [`default_max_tokens`]"),
    _supported("max_tokens", "the older name of `max_completion_tokens`"),
    *_SAMPLING,
    _supported("logprobs", "needs the model's tokenizer (`counterfoil client tokenizer fetch`)"),
    _supported("top_logprobs", "0 to 20, with `logprobs`"),
    _refused("tools", "no tools are called", ()),
    _refused("tool_choice", "no tools are called", "none", "auto"),
    _refused("functions", "no functions are called", ()),
    _refused("function_call", "no functions are called", "none", "auto"),
    _refused("response_format", "answers are not constrained", {"type": "text"}),
    _refused("modalities", "answers are text", ("text",)),
    _refused("audio", "answers are text"),
    _refused("prediction", "no answer is predicted"),
    _refused("web_search_options", "nothing is searched"),
    _refused("moderation", "nobody else reads the request"),
    _refused("reasoning_effort", "no model is told how much to reason", "none"),
    _refused("verbosity", "no model is told how much to say", "medium"),
    _refused("store", "nothing is kept but in the client's own archive", False),
    _ignored("metadata", "nothing but the key's tags goes into the order"),
    _ignored("parallel_tool_calls", "no tools are called"),
    _ignored("prompt_cache_key", "nodes keep each tenant's prefixes anyway"),
    _ignored("prompt_cache_options", "likewise"),
    _ignored("prompt_cache_retention", "likewise"),
    _ignored("safety_identifier", "the key says whose request it is"),
    _ignored("service_tier", "the client's policy chooses the node"),
)
COMPLETIONS: Final = (
    _supported("prompt", "one text, which the model gets verbatim"),
    *_FLOW,
    _supported("max_tokens", "up to the node's limit [16]"),
    *_SAMPLING,
    _supported(
        "logprobs", "0 to 20; needs the model's tokenizer (`counterfoil client tokenizer fetch`)"
    ),
    _refused("best_of", "every answer is returned, since every one is paid for", 1),
    _refused("echo", "the prompt is not repeated", False),
    _refused("suffix", "nothing is written into a gap", ""),
)


def check(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> None:
    """Raise UNSUPPORTED, naming the first parameter in `given` that is refused."""
    for parameter in parameters:
        value = given.get(parameter.name)
        if parameter.standing is not Standing.REFUSED or value is None:
            continue
        plain = tuple(value) if isinstance(value, list) else value
        if not any(type(plain) is type(one) and plain == one for one in parameter.harmless):
            raise CounterfoilError(
                Code.UNSUPPORTED,
                f"{parameter.name} is not supported: {parameter.note}",
                metadata={"param": parameter.name},
            )
