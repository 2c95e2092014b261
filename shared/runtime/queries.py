"""Strict query parameters of an HTTP API: one that a route does not know is refused by name."""

import difflib
from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.printable import printable

MAX_SHOWN: Final = 64


async def _check(request: Request) -> None:
    """Refuse unknown and repeated parameters, and control characters in any; INVALID_ARGUMENT names the parameter."""
    known = dict(_parameters(request.scope["route"].dependant))
    given = request.query_params.multi_items()
    seen: set[str] = set()
    for name, value in given:
        if name not in known:
            raise _refusal(f"there is no parameter {_shown(name)}", _nearest(name, known))
        if name in seen and not known[name]:
            raise _refusal(f"the parameter {name} is given more than once", "Give it once.")
        seen.add(name)
        _check_printable(name, value)
    for name, value in request.path_params.items():
        _check_printable(name, str(value))


STRICT: Final = Depends(_check)
"""For `include_router(…, dependencies=[STRICT])`: its routes accept only the parameters that they declare."""


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield each query parameter of a route and its dependencies, and whether it may be repeated."""
    for field in dependant.query_params:
        yield field.alias, _is_list(field.field_info.annotation)
    for inner in dependant.dependencies:
        yield from _parameters(inner)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(part) is list for part in (annotation, *get_args(annotation)))


def _nearest(name: str, known: dict[str, bool]) -> str:
    if not known:
        return "This address takes none."
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"It takes {', '.join(sorted(known))}."


def _check_printable(name: str, value: str) -> None:
    if not value.isprintable():
        raise _refusal(
            f"the parameter {name} contains a character that cannot be printed", "Remove it."
        )


def _shown(name: str) -> str:
    return printable(name, MAX_SHOWN)


def _refusal(problem: str, remedy: str) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, problem, remedy=remedy)
