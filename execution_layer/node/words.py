"""Tokens and text on their way into frames (protocol §4.2)."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from execution_layer.engine.protocol import TokenChunk
from shared.codec import cbor
from shared.statements.logprobs import TokenLogprobs

OVERHEAD: Final = 40
"""Bytes of a frame's plaintext that are neither tokens nor text nor log-probabilities, and one of padding; at most."""


@dataclass(slots=True)
class Words:
    """Tokens, and text that they settle."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def add(self, tokens: Sequence[int], text: str, logprobs: Sequence[TokenLogprobs] = ()) -> None:
        """Append."""
        self.tokens.extend(tokens)
        self.text += text
        self.logprobs.extend(logprobs)


class Waiting:
    """What was generated and is in no frame yet, in its order. A frame's text never runs ahead of its tokens."""

    def __init__(self) -> None:
        self._parts: deque[TokenChunk] = deque()
        """Each has at most one token."""

    def __len__(self) -> int:
        """Return the number of tokens, and of texts without one."""
        return len(self._parts)

    @property
    def tokens(self) -> list[int]:
        """The tokens, in order."""
        return [token for part in self._parts for token in part.token_ids]

    def add(self, chunk: TokenChunk) -> None:
        """Append what a chunk holds; the text of several tokens comes with the last one."""
        *others, last = chunk.token_ids or (None,)
        told = chunk.logprobs or (None,) * len(chunk.token_ids)
        for token, entry in zip(others, told, strict=False):
            assert token is not None
            self._parts.append(TokenChunk((token,), "", () if entry is None else (entry,)))
        if last is not None or chunk.text:
            own = () if last is None else (last,)
            self._parts.append(TokenChunk(own, chunk.text, chunk.logprobs[-1:]))

    def take(self) -> Words:
        """Take everything."""
        words = Words()
        while self._parts:
            part = self._parts.popleft()
            words.add(part.token_ids, part.text, part.logprobs)
        return words

    def take_within(self, size: int) -> Words:
        """Take what a frame of `size` bytes has room for; the text of a token that has not is cut, and its rest waits."""
        words, room = Words(), size - OVERHEAD
        while self._parts and room > 0:
            part = self._parts[0]
            cost = sum(len(cbor.encode(token)) for token in part.token_ids)
            cost += sum(len(entry.to_cbor()) for entry in part.logprobs)
            if cost > room:
                break
            text = part.text.encode()[: room - cost].decode(errors="ignore")
            words.add(part.token_ids, text, part.logprobs)
            room -= cost + len(text.encode())
            self._parts.popleft()
            if text != part.text:
                self._parts.appendleft(TokenChunk((), part.text[len(text) :]))
                break
        return words
