"""What a rendering may do in total: a bounded number of steps, and a bounded number of characters and items visited.
These limits, not a clock, stop a stranger's template, so node and auditor stop it at the same place.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from itertools import chain
from typing import Any, Final, TypeVar

from jinja2 import TemplateError

MAX_STEPS: Final = 100_000
MAX_WORK: Final = 1 << 27
"""Characters that operations may visit; an item of a list costs `ITEM`, a template node in a loop's body `NODE`."""
ITEM: Final = 8
NODE: Final = 32
MAX_ITEMS: Final = 1 << 18
"""Most items, including nested ones, in one list or mapping."""
T = TypeVar("T")
SERIES: Any = (list, tuple, type({}.keys()), type({}.values()), type({}.items()))
LISTED: Any = (dict, *SERIES)
SIZED: Any = (range, *LISTED)

_left: ContextVar[list[int]] = ContextVar("steps and work left of the rendering")


class TooMuchError(TemplateError):
    """The template exceeds a limit; the text says which."""


def with_budget(render: Callable[[], T]) -> T:
    """Render with a full budget."""
    budget = _left.set([MAX_STEPS, MAX_WORK])
    try:
        return render()
    finally:
        _left.reset(budget)


def step(size: int) -> None:
    """Take one step, through a body of `size` nodes."""
    left = _left.get()
    left[0] -= 1
    if left[0] < 0:
        raise TooMuchError("takes too many steps")
    spend(NODE * size)


def spend(amount: int) -> None:
    """Charge work to the budget."""
    left = _left.get()
    left[1] -= amount
    if left[1] < 0:
        raise TooMuchError("processes too much text")


def made(value: Any) -> Any:
    """Return a value that an operation made, after charging its cost; no list has more than `MAX_ITEMS` items."""
    if isinstance(value, str):
        spend(len(value))
    elif isinstance(value, LISTED):
        spend(ITEM * sum(1 for _ in within(value)))
    return value


def weighed(value: Any) -> Any:
    """Return a value that is visited to the last character, after charging the cost."""
    if isinstance(value, str):
        spend(len(value))
    elif isinstance(value, LISTED):
        for item in within(value):
            spend(ITEM + len(item) if isinstance(item, str) else ITEM)
    return value


def touched(value: Any) -> None:
    """Charge the cost of visiting a value's items, or a text's characters."""
    if isinstance(value, str):
        spend(len(value))
    elif isinstance(value, SIZED):
        spend(ITEM * len(value))


def within(value: Any) -> Iterator[Any]:
    """Yield a value and everything in it, once per occurrence; TooMuchError for more than `MAX_ITEMS`."""
    left, count = [iter((value,))], 0
    while left:
        item = next(left[-1], left)
        if item is left:
            left.pop()
            continue
        count += 1
        if count > MAX_ITEMS:
            raise TooMuchError("makes a list that is too long")
        yield item
        if isinstance(item, dict):
            left.append(chain(item.keys(), item.values()))
        elif isinstance(item, SERIES):
            left.append(iter(item))
