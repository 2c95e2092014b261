"""Streaming text and stop rules: what text a sequence's tokens stand for, and where it ends.

One class decides for the node during generation and for the auditor afterwards, so both apply the same rule: a sequence ends
with the first token that is a stop token (the model's, or the request's), or that completes a stop string in the settled text
of all tokens so far. Text is settled when no later token can change it: all of it except a trailing character whose bytes are
incomplete. The stop string and the stop token are not part of the text.
"""

from collections.abc import Iterable, Sequence

from shared.runtime.errors import Code, CounterfoilError
from shared.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
UNSETTLED = 3
"""An incomplete UTF-8 character has at most 3 bytes, so at most 3 replacement characters."""
CONTEXT = 8
"""Tokens with text that are decoded again with each new one: a token's text may depend on those before it."""


class TextStream:
    """Takes tokens and returns text that never splits a character and never shows a stop string.

    `prefix` are the sequence's first tokens, as `push` would have taken them; their settled text is not returned again.
    INVALID_ARGUMENT if the sequence ends with them or before (protocol §3.3.1).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        prefix: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._stop_tokens = tokenizer.stop_tokens.union(stop_ids)
        self._window: list[int] = []
        self._known = 0
        """Characters of the window's text that are already in `text`."""
        self._given = 0
        self.text = ""
        """All text so far, up to a stop string."""
        self.stopped = False
        for token in prefix:
            self.push(token)
            if self.stopped:
                raise CounterfoilError(
                    Code.INVALID_ARGUMENT,
                    "the prefix is a whole answer: nothing comes after its stop",
                    remedy="Leave out the last tokens.",
                    metadata={"prefix": "complete"},
                )

    @property
    def settled(self) -> str:
        """The text that no later token can change or take for a stop string, so far."""
        return self.text[: self._given]

    def push(self, token: int) -> str:
        """Take one token; return the text that can be shown now. Sets `stopped` at the sequence's end."""
        assert not self.stopped
        if token in self._stop_tokens:
            text = self.flush()
            self.stopped = True
            return text
        if self._tokenizer.is_silent(token):
            return ""  # in the window it would only displace a character's first bytes
        self._window.append(token)
        self._extend(final=False)
        places = [self.text.find(stop, self._given) for stop in self._stop]
        found = min((place for place in places if place >= 0), default=None)
        if found is None:
            return self._release(len(self.text) - self._held())
        self.text, self.stopped = self.text[:found], True
        return self._release(found)

    def flush(self) -> str:
        """Return what was held back; the sequence has ended."""
        if not self.stopped:
            self._extend(final=True)
        return self._release(len(self.text))

    def _extend(self, *, final: bool) -> None:
        """Add the new text of the window's tokens, unless a character is incomplete."""
        whole = self._tokenizer.decode(self._window)
        held = 0 if final else min(UNSETTLED, len(whole) - len(whole.rstrip(REPLACEMENT)))
        self.text += whole[self._known : len(whole) - held]
        if len(self._window) > CONTEXT:
            self._window = self._window[-CONTEXT:]
            whole = self._tokenizer.decode(self._window)
        self._known = len(whole) - held

    def _held(self) -> int:
        """Return how many characters at the end may begin a stop string."""
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


def stop_length(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    stop: Sequence[str],
    stop_ids: Sequence[int] = (),
    prefix: Sequence[int] = (),
) -> int | None:
    """Return the number of tokens up to and including the first stop, or None; `prefix` goes before them, uncounted."""
    stream = TextStream(tokenizer, stop, stop_ids, prefix)
    for count, token in enumerate(tokens, start=1):
        stream.push(token)
        if stream.stopped:
            return count
    return None


def text_of(
    tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str], stop_ids: Sequence[int] = ()
) -> str:
    """Return the text that a client sees for these tokens."""
    stream = TextStream(tokenizer, stop, stop_ids)
    for token in tokens:
        stream.push(token)
        if stream.stopped:
            break
    stream.flush()
    return stream.text


class SaidText:
    """Checks frames' texts against their tokens as they arrive (protocol §7.4).
    After each frame the texts so far are a prefix of the settled text, or of the whole; once they go beyond the settled
    text, no token may follow, nor may one follow the token that stops the sequence.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        prefix: Sequence[int] = (),
    ) -> None:
        self._stream = TextStream(tokenizer, stop, stop_ids, prefix)
        self._over = False
        self._due = ""
        """Settled text that is not yet in any frame."""

    def take(self, tokens: Sequence[int], text: str) -> bool:
        """Take the next frame; False if its text does not match its tokens: the object must not be used after that."""
        for token in tokens:
            if self._over or self._stream.stopped:
                return False
            self._due += self._stream.push(token)
        if len(text) > len(self._due):
            self._due += self._stream.flush()
            self._over = True
        if not self._due.startswith(text):
            return False
        self._due = self._due[len(text) :]
        return True

    def whole(self) -> bool:
        """Return whether all text has been delivered, as it must be if the sequence ended by its own rules."""
        self._due += self._stream.flush()
        self._over = True
        return not self._due


def frames_say(
    tokenizer: Tokenizer,
    frames: Iterable[tuple[Sequence[int], str]],
    stop: Sequence[str],
    stop_ids: Sequence[int] = (),
    prefix: Sequence[int] = (),
    *,
    ended: bool,
) -> bool:
    """Return whether the text of every frame of (tokens, text) matches its tokens, and is complete if the sequence `ended`."""
    said = SaidText(tokenizer, stop, stop_ids, prefix)
    return all(said.take(tokens, text) for tokens, text in frames) and (not ended or said.whole())
