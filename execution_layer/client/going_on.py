"""One answer over several attempts: what was delivered, and how the next attempt goes on from it (protocol §3.3.1). Pure.

What counts is what opened under its chain and was signed by its node. The application hears every text once.
"""

from collections import Counter
from dataclasses import replace

from execution_layer.client.attempt import Attempt
from execution_layer.client.completion import Completion, Contribution
from execution_layer.client.wanted import Wanted
from shared.envelope.stream import Frame
from shared.runtime.errors import Code, CounterfoilError


class GoingOn:
    """What the application wants, and what it has of it. Unless it wants it so (`Wanted.continues`), no attempt goes on where
    others broke off. `seed` is the sampling seed of an answer whose caller set none.
    """

    def __init__(self, wanted: Wanted, seed: bytes) -> None:
        if wanted.continues and wanted.body.seed is None:
            wanted = replace(wanted, body=replace(wanted.body, seed=seed))
        self._wanted = wanted
        self._frames: list[tuple[Frame, int]] = []
        """What attempts delivered, each with its attempt's place in `_attempts`."""
        self._kept = 0
        """How many of them are the prefix of the attempt under way; it writes the others again."""
        self._attempts: list[Contribution] = []
        self._text = ""
        """Up to where the attempt under way has come."""
        self._heard = ""
        """What the application was given."""

    def next(self) -> Wanted:
        """Return what the next attempt is to be asked for."""
        if not self._wanted.continues:
            return self._wanted
        self._settle()
        self._hear("")
        body, prefix = self._wanted.body, self._prefix
        if prefix:
            left = body.settings.max_tokens - len(prefix)
            body = replace(
                body, settings=replace(body.settings, max_tokens=left), prefix=tuple(prefix)
            )
        return replace(self._wanted, body=body, on_text=self._hear)

    def take(self, broken: Attempt) -> None:
        """Take what a broken attempt delivered."""
        if self._wanted.continues and any(frame.tokens for frame in broken.frames):
            place, ordered = len(self._attempts), broken.ordered
            self._attempts.append(
                Contribution(ordered.attempt, broken.node, ordered.id, 0, broken.receipt)
            )
            self._frames[self._kept :] = [(frame, place) for frame in broken.frames]
            self._kept = len(self._frames)

    def shortened(self, error: CounterfoilError) -> bool:
        """Leave out the last frame if a node says that nothing comes after the prefix; return whether that is what it says."""
        if error.metadata.get("prefix") != "complete" or not self._prefix:
            return False
        self._shorten()
        return True

    def complete(self, last: Completion) -> Completion:
        """Return the whole answer, of which an attempt wrote the end. CONFLICT if it wrote again something else than what
        had been delivered.
        """
        again = [token for frame, _ in self._frames[self._kept :] for token in frame.tokens]
        if list(last.token_ids[: len(again)]) != again or not self._text.startswith(self._heard):
            raise _conflict()
        kept = self._frames[: self._kept]
        counts = Counter(dict.fromkeys(range(len(self._attempts)), 0))
        for frame, place in kept:
            counts[place] += len(frame.tokens)
        mine = Contribution(
            last.attempt, last.node, last.transcript_id, len(last.token_ids), last.receipt
        )
        before = [replace(self._attempts[place], tokens=counts[place]) for place in counts]
        return replace(
            last,
            text=self._text if self._wanted.continues else last.text,
            token_ids=(*self._prefix, *last.token_ids),
            logprobs=(
                *(told for frame, _ in kept for told in frame.logprobs or ()),
                *last.logprobs,
            ),
            contributions=(*(one for one in before if one.tokens), mine),
        )

    @property
    def _prefix(self) -> list[int]:
        return [token for frame, _ in self._frames[: self._kept] for token in frame.tokens]

    def _settle(self) -> None:
        """Find the longest prefix after which something can come, and the text that belongs to it: by the tokenizer, or else
        what its frames said.
        """
        while len(self._prefix) >= self._wanted.body.settings.max_tokens:
            self._shorten()
        self._text = "".join(frame.text for frame, _ in self._frames[: self._kept])
        if self._wanted.model_text is None or not self._prefix:
            return
        try:
            self._text = self._wanted.model_text.settled(self._wanted.body, self._prefix)
        except CounterfoilError as error:
            if not self.shortened(error):
                raise
            self._settle()

    def _shorten(self) -> None:
        """Leave out the last frame that has tokens, and what came after it."""
        while self._kept:
            self._kept -= 1
            if self._frames[self._kept][0].tokens:
                return

    def _hear(self, text: str) -> None:
        """Pass on what is new."""
        self._text += text
        known = min(len(self._text), len(self._heard))
        if self._text[:known] != self._heard[:known]:
            raise _conflict()
        new = self._text[known:]
        if new and self._wanted.on_text is not None:
            self._wanted.on_text(new)
        self._heard += new


def _conflict() -> CounterfoilError:
    return CounterfoilError(
        Code.CONFLICT,
        "the answer goes on differently from what another node had delivered",
        remedy="Ask again. The archive keeps both attempts, and an audit of either says whether it was the model's.",
    )
