"""Log-probabilities in the API's shapes: natural logarithms, with tokens' texts by the client's own tokenizer. Pure."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

from execution_layer.client.completion import Completion
from shared.statements.logprobs import TokenLogprobs

Spell = Callable[[int], str]
"""Gives a token's text."""
_UNREADABLE = "\ufffd"


def chat_logprobs(answer: Completion, spell: Spell) -> dict[str, Any]:
    """Return what a conversation's choice has as `logprobs`."""
    told = zip(answer.token_ids, answer.logprobs, strict=True)
    content = [
        {**_one(token, one.logprob, spell), "top_logprobs": _top(one, spell)} for token, one in told
    ]
    return {"content": content, "refusal": None}


def legacy_logprobs(answer: Completion, spell: Spell) -> dict[str, Any]:
    """Return what a completion's choice has as `logprobs`; offsets count the characters of the tokens' texts."""
    texts = [spell(token) for token in answer.token_ids]
    offsets = list(accumulate(map(len, texts), initial=0))[: len(texts)]
    return {
        "tokens": texts,
        "token_logprobs": [_nats(one.logprob) for one in answer.logprobs],
        "top_logprobs": [
            {spell(token): _nats(value) for token, value in _pairs(one)} for one in answer.logprobs
        ],
        "text_offset": offsets,
    }


def _top(one: TokenLogprobs, spell: Spell) -> list[dict[str, Any]]:
    return [_one(token, value, spell) for token, value in _pairs(one)]


def _pairs(one: TokenLogprobs) -> list[tuple[int, int]]:
    return list(zip(one.top_tokens, one.top_logprobs, strict=True))


def _one(token: int, logprob: int, spell: Spell) -> dict[str, Any]:
    """A token that is a part of a character has no text of its own, and so no bytes that could be told."""
    text = spell(token)
    octets = None if _UNREADABLE in text else list(text.encode())
    return {"token": text, "logprob": _nats(logprob), "bytes": octets}


def _nats(micro: int) -> float:
    return micro / 1_000_000
