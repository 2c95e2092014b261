"""The options by which finance people say what blinded tags stand for (protocol §4.5.1). Nothing of it leaves the machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from audit_layer.commands.options import FILE
from shared.runtime.errors import Code, CounterfoilError

if TYPE_CHECKING:
    from shared.statements.tag_book import TagBook

F = TypeVar("F", bound=Callable[..., Any])
MOST_CANDIDATES: Final = 100_000


def tag_options(command: F) -> F:
    """Give a command `tags`, `tag_key` and `candidates`, for `book_of`."""
    options = (
        click.option(
            "--tags", type=FILE, help="Tag book of a tenant (`counterfoil client tags` writes it)."
        ),
        click.option(
            "--tag-key", type=FILE, help="The tenant's tag key, instead of a book; with --tag."
        ),
        click.option(
            "--tag",
            "candidates",
            multiple=True,
            metavar="NAME=VALUE",
            help="A tag that orders may have; repeatable. Every combination of one value a name, or none, is tried.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def book_of(
    tags: Path | None, tag_key: Path | None, candidates: Sequence[str], tenant: str | None
) -> "TagBook | None":
    """Return the book that the options describe; None without any of them.

    INVALID_ARGUMENT when they do not belong together, or are candidates of more than 100,000 combinations.
    """
    if tags is None and tag_key is None and not candidates:
        return None
    from shared.statements.tag_book import TagBook  # noqa: PLC0415  # --help stays light

    if tags is not None and tag_key is None and not candidates:
        book = TagBook.load(tags)
        if tenant not in {None, book.tenant}:
            raise _wrong(f"{tags} is the tag book of {book.tenant}, not of {tenant}")
        return book
    if tags is not None or tag_key is None or not candidates or tenant is None:
        raise _wrong("name either --tags, or --tag-key with --tag and --tenant")
    from shared.statements.tag_key_file import load_tag_key  # noqa: PLC0415  # --help stays light

    return TagBook.of(load_tag_key(tag_key), tenant, combinations(candidates))


def centre_of(
    cost_centre: str | None, tag_key: Path | None, tags: Sequence[str], tenant: str
) -> str | None:
    """Return the blinded value that orders with exactly these tags show, in hexadecimal; None for every order."""
    if tag_key is None and not tags:
        return cost_centre
    if cost_centre is not None or tag_key is None or not tags:
        raise _wrong("name either --cost-centre, or --tag-key with --tag")
    from shared.statements.tag_key_file import load_tag_key  # noqa: PLC0415  # --help stays light

    pairs = dict(_pair(tag) for tag in tags)
    if len(pairs) != len(tags):
        raise _wrong("a tag has one value")
    return load_tag_key(tag_key).blind(tenant, pairs).hex()


def combinations(candidates: Sequence[str]) -> list[dict[str, str]]:
    """Return every set of tags of one value a name, or none, but not the empty one."""
    from itertools import product  # noqa: PLC0415  # next to its only use
    from math import prod  # noqa: PLC0415

    values: dict[str, list[str]] = {}
    for candidate in candidates:
        name, value = _pair(candidate)
        values.setdefault(name, []).append(value)
    if prod(len(each) + 1 for each in values.values()) > MOST_CANDIDATES:
        raise _wrong(f"the tags have more than {MOST_CANDIDATES:,} combinations")
    sets = product(*([None, *dict.fromkeys(each)] for each in values.values()))
    return [
        {name: value for name, value in zip(values, chosen, strict=True) if value is not None}
        for chosen in sets
        if any(value is not None for value in chosen)
    ]


def _pair(tag: str) -> tuple[str, str]:
    name, found, value = tag.partition("=")
    if not found:
        raise _wrong(f"{tag[:60]!r} is not NAME=VALUE")
    return name, value


def _wrong(detail: str) -> CounterfoilError:
    return CounterfoilError(Code.INVALID_ARGUMENT, detail)
