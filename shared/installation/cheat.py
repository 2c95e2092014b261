"""The dishonest node of a demonstration: a program beside the product that stands in for one node."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from shared.installation.commands import Commands
from shared.runtime.errors import Code, CounterfoilError

WRAPPER = Path(__file__).parents[2] / "tests" / "adversaries" / "node.py"
"""Where the repository keeps the dishonest node, which is not part of the product."""
USUAL = "int8"


@dataclass(frozen=True, slots=True)
class Cheat:
    """What stands in for a node's `serve` and `invoice`, and what is known of it."""

    program: tuple[str, ...]
    """Arguments of the interpreter."""
    does: str
    """What it does, as the end of a sentence that begins with the node's name."""
    seldom: str = ""
    """Why a run may not show it, in words; empty if nearly every answer is another one than an honest node's."""


async def choose_cheat(commands: Commands, wrapper: Path | None, name: str | None) -> Cheat:
    """Return the cheat that a user asked for; CONFIGURATION, with the names, if there is none of that name.

    A `wrapper` of the user's own is run as `python WRAPPER serve …`, or `python WRAPPER NAME serve …` with a name.
    """
    if wrapper is not None:
        path = str(wrapper)
        if name is None:
            return Cheat((path,), f"is the program {wrapper.name}")
        return Cheat((path, name), f"is the program {wrapper.name}, told to cheat as {name}")
    if not WRAPPER.exists():
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"there is no dishonest node at {WRAPPER}",
            remedy="Run the demonstration from the repository, or pass --dishonest-node.",
        )
    path, name = str(WRAPPER), name or USUAL
    known = json.loads(await commands.run("--list", program=(sys.executable, path)))
    if name not in known:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"there is no cheat named {name!r}",
            remedy=f"Choose one of: {', '.join(known)}.",
        )
    return Cheat((path, name), known[name]["does"], known[name]["seldom"])
