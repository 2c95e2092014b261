"""Checked answers in the API's own shapes. Pure: what is counted and named here is what the receipts say."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from execution_layer.client.completion import Completion, Contribution
from execution_layer.proxy.asking import Asked, Kind
from execution_layer.proxy.tokens import Spell, chat_logprobs, legacy_logprobs
from shared.statements.receipts import Finish

_REASONS: Final = {Finish.STOP: "stop"}
"""Every other end is a cut, for which the API has one word; `counterfoil.finish` says which."""
_CUT: Final = "length"
_CHUNKS: Final = {Kind.CHAT: "chat.completion.chunk", Kind.COMPLETION: "text_completion"}
_PREFIXES: Final = {Kind.CHAT: "chatcmpl-", Kind.COMPLETION: "cmpl-"}
DONE: Final = b"data: [DONE]\n\n"


class Shape:
    """The answer to one request. `made` is in seconds since 1970; `spell` gives tokens' texts where log-probabilities are asked
    for.
    """

    def __init__(self, asked: Asked, name: str, made: int, spell: Spell | None) -> None:
        self._asked = asked
        self._spell = spell
        self.id = _PREFIXES[asked.kind] + name
        self._made = made

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """Return the response to a request that is not streamed."""
        return {
            **self._head(self._asked.kind.value),
            "choices": [{**self._ended(answer), **self._said(answer.text)} for answer in answers],
            "usage": usage_of(answers),
            "counterfoil": proof_of(answers),
        }

    def first(self) -> list[dict[str, Any]]:
        """Return the chunks with which a stream begins: a conversation's say who speaks."""
        if self._asked.kind is not Kind.CHAT:
            return []
        said = {"role": "assistant", "content": ""}
        return [self._chunk(choice, {"delta": said}) for choice in range(self._asked.n)]

    def piece(self, choice: int, text: str) -> dict[str, Any]:
        """Return a chunk with some text."""
        said = {"delta": {"content": text}} if self._asked.kind is Kind.CHAT else {"text": text}
        return self._chunk(choice, said)

    def last(self, answers: Sequence[Completion]) -> list[dict[str, Any]]:
        """Return the chunks that end a stream, once every receipt was checked; all of them say so."""
        proved = {"counterfoil": proof_of(answers)}
        nothing: dict[str, Any] = {"delta": {}} if self._asked.kind is Kind.CHAT else {"text": ""}
        ends = [
            {**self._chunk(answer.choice, {**self._ended(answer), **nothing}), **proved}
            for answer in answers
        ]
        if self._asked.include_usage:
            usage = {"choices": [], "usage": usage_of(answers), **proved}
            ends.append({**self._head(_CHUNKS[self._asked.kind]), **usage})
        return ends

    def _head(self, kind: str) -> dict[str, Any]:
        made = {"id": self.id, "object": kind, "created": self._made}
        return {**made, "model": self._asked.model}

    def _chunk(self, choice: int, members: Mapping[str, Any]) -> dict[str, Any]:
        one = {"index": choice, "logprobs": None, "finish_reason": None, **members}
        unsaid = {"usage": None} if self._asked.include_usage else {}
        return {**self._head(_CHUNKS[self._asked.kind]), "choices": [one], **unsaid}

    def _said(self, text: str) -> dict[str, Any]:
        if self._asked.kind is Kind.CHAT:
            return {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"text": text}

    def _ended(self, answer: Completion) -> dict[str, Any]:
        logprobs = None
        if self._spell is not None:
            shown = chat_logprobs if self._asked.kind is Kind.CHAT else legacy_logprobs
            logprobs = shown(answer, self._spell)
        return {
            "index": answer.choice,
            "finish_reason": _REASONS.get(answer.finish, _CUT),
            "logprobs": logprobs,
            "counterfoil": proof_of([answer]),
        }


def usage_of(answers: Sequence[Completion]) -> dict[str, Any]:
    """Return what the answers' receipts bill, together."""
    used = [answer.receipt.value.usage for answer in answers]
    prompt, output = sum(one.input for one in used), sum(one.output for one in used)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached for one in used)},
    }


def proof_of(answers: Sequence[Completion]) -> dict[str, Any]:
    """Return whose answer it is and what proves it: of the first one, and the receipts of all."""
    first = answers[0]
    return {
        "checked": True,
        "receipt": first.receipt.entry.hex(),
        "order": first.receipt.value.order.hex(),
        "node": first.node,
        "number": first.number,
        "attempt": first.attempt,
        "finish": first.finish.value,
        "text_verified": first.text_verified,
        "receipts": [answer.receipt.entry.hex() for answer in answers],
        **_earlier(first.contributions[:-1]),
    }


def event(members: Mapping[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(members, ensure_ascii=False).encode() + b"\n\n"


def _earlier(parts: Sequence[Contribution]) -> dict[str, Any]:
    """Return the attempts that wrote the answer's beginning, if any did; each has a receipt and a bill of its own."""
    told = [
        {
            "node": part.node,
            "attempt": part.attempt,
            "tokens": part.tokens,
            "receipt": None if part.receipt is None else part.receipt.entry.hex(),
        }
        for part in parts
    ]
    return {"earlier": told} if told else {}
