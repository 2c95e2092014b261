"""A dishonest node as a value: what it changes in the ordinary program, and by what it is found.

The product knows nothing of adversaries: each one replaces a few functions or classes of the ordinary program, in the process
that serves, and puts them back. So whatever an auditor finds, it finds in the bytes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest import mock

from shared.runtime.errors import Code
from shared.statements.verdicts import Reason

Change = Callable[[], AbstractContextManager[None]]
"""Returns a context in which the ordinary program of this process is another one."""


@dataclass(frozen=True, slots=True)
class Adversary:
    """One way to cheat."""

    name: str
    """In kebab-case, as on a command line."""
    summary: str
    """What it does, in one line."""
    change: Change = field(repr=False)
    expected: frozenset[Reason]
    """Any of these is what an auditor finds in an answer that is not the honest one (protocol §6.3)."""
    refusals: frozenset[Code] = frozenset()
    """Any of these is what a client with the tokenizer says of such an answer; empty where it has no means to tell."""
    seldom: str = ""
    """Why a day's traffic may not show it, in a few words; empty if nearly every answer is another one."""

    def applied(self) -> AbstractContextManager[None]:
        """Change the program in this process, and restore it at the end. What is built meanwhile stays dishonest."""
        return self.change()


@contextmanager
def patched(*changes: tuple[object, str, object]) -> Iterator[None]:
    """Replace attributes, (owner, name, value) each, and restore them all at the end."""
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield
