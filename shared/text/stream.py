"""Streaming text and stop rules: what a sequence's tokens say, and where it ends.

One class decides for the node while it generates and for the auditor afterwards, so both apply the same rule: a sequence ends with
the first token that is a stop token, or that completes a stop string in the text of all tokens so far. The stop string and
the stop token are not part of the text.
"""

from collections.abc import Sequence

from shared.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


class TextStream:
    """Feeds on tokens, gives text that never splits a character and never shows a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._start = 0
        self._settled = 0
        self._given = 0
        self.text = ""
        """All text so far, up to a stop string."""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token; return the text that can be shown now. Sets `stopped` at the sequence's end."""
        assert not self.stopped
        if token in self._tokenizer.stop_tokens:
            self.stopped = True
            return self.flush()
        self._tokens.append(token)
        self._extend(final=False)
        for stop in self._stop:
            found = self.text.find(stop, max(0, self._given - len(stop)))
            if found >= 0:
                self.text, self.stopped = self.text[:found], True
        return self._release(len(self.text) if self.stopped else len(self.text) - self._held())

    def flush(self) -> str:
        """Return what was held back; the sequence has ended."""
        if not self.stopped or not self._stop:
            self._extend(final=True)
        return self._release(len(self.text))

    def _extend(self, *, final: bool) -> None:
        """Add the text of the tokens since the last settled one, unless it ends inside a character."""
        known = self._tokenizer.decode(self._tokens[self._start : self._settled])
        whole = self._tokenizer.decode(self._tokens[self._start :])
        if not final and whole.endswith(REPLACEMENT):
            return
        self.text += whole[len(known) :]
        # One settled run of tokens stays in front: how a token decodes may depend on its neighbour.
        self._start, self._settled = self._settled, len(self._tokens)

    def _held(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _release(self, upto: int) -> str:
        part = self.text[self._given : max(upto, self._given)]
        self._given = max(upto, self._given)
        return part


def stop_length(tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str]) -> int | None:
    """Return how many tokens there are up to and including the first stop, or None."""
    stream = TextStream(tokenizer, stop)
    for count, token in enumerate(tokens, start=1):
        stream.push(token)
        if stream.stopped:
            return count
    return None


def text_of(tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str]) -> str:
    """Return the text that a client is shown for these tokens."""
    stream = TextStream(tokenizer, stop)
    for token in tokens:
        stream.push(token)
        if stream.stopped:
            break
    stream.flush()
    return stream.text
