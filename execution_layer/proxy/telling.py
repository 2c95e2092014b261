"""What is said of a request's answers while they are made. Pure: nothing is lost or repeated, however slowly it is read.

What nobody has read yet is kept once, as one text for each answer, so a reader that stops costs no more than the answers
themselves, whose length the request bounds.
"""

import asyncio


class Telling:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._unread: dict[int, list[str]] = {}
        self._heard: dict[int, int] = {}
        self._something = asyncio.Event()

    def say(self, choice: int, text: str) -> None:
        """Take a piece of an answer's text."""
        self._unread.setdefault(choice, []).append(text)
        self._something.set()

    async def wait(self) -> None:
        """Return when there is something to read."""
        await self._something.wait()

    def take(self) -> list[tuple[int, str]]:
        """Return what has not been read: (choice, text), one for each answer at most."""
        found = [(choice, "".join(texts)) for choice, texts in self._unread.items()]
        for choice, text in found:
            self._heard[choice] = self._heard.get(choice, 0) + len(text)
        self._unread.clear()
        self._something.clear()
        return found

    def heard(self, choice: int) -> int:
        """Return how many characters of an answer have been read."""
        return self._heard.get(choice, 0)
