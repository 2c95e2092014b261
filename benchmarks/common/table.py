"""How figures are shown to a person."""

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]


def figure(value: Figures, form: str) -> str:
    """Return a median with its lowest and highest round."""
    return f"{value['median']:{form}} ({value['low']:{form}} to {value['high']:{form}})"


def mark(met: bool) -> str:
    """Return whether an aim is met."""
    return " [green]✓[/]" if met else " [red]✗[/]"


def head(about: Figures) -> str:
    """Return a line about the machine."""
    return (
        f"{about['processor']}, {about['cores']} cores ({about['instructions']}), no GPU used; "
        f"Python {about['python']}, torch {about['torch']}; load before the run {about['load_before']}"
    )
