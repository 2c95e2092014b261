"""An explanation for the terminal and as one HTML file that can be passed on. Pure."""

from html import escape
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from audit_layer.commands.explanation import Explanation, Line
from shared.runtime.printable import for_terminal

MARKS: Final = {True: "\N{CHECK MARK}", False: "\N{BALLOT X}", None: "\N{MIDDLE DOT}"}
STYLES: Final = {True: "green", False: "red", None: ""}
_CSS: Final = """
:root { color-scheme: light dark; --good: #1a7f37; --bad: #b3261e; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; border-left: .35rem solid var(--line); padding-left: .75rem; }
h1.good { border-color: var(--good); } h1.bad { border-color: var(--bad); }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; border-top: 1px solid var(--line); padding-top: 1rem; }
ul { list-style: none; padding: 0; margin: 0; } li { padding: .15rem 0 .15rem 1.6rem; text-indent: -1.6rem; }
li { overflow-wrap: anywhere; } li::before { content: attr(data-mark); display: inline-block; width: 1.6rem; text-indent: 0; }
li.good::before { color: var(--good); } li.bad { font-weight: 600; } li.bad::before { color: var(--bad); }
"""


def for_people(found: Explanation) -> RenderableType:
    """Lay an explanation out for a terminal."""
    parts: list[RenderableType] = [Text(for_terminal(found.headline), f"bold {STYLES[found.good]}")]
    for section in found.sections:
        parts.append(Text(f"\n{section.title}", "bold"))
        lines = Table.grid(padding=(0, 1))  # so that what is wrapped stays under itself
        for line in section.lines:
            style = STYLES[line.held]
            lines.add_row(
                Text(f"  {MARKS[line.held]}", style), Text(for_terminal(line.text), style)
            )
        parts.append(lines)
    return Group(*parts)


def page(found: Explanation, title: str) -> str:
    """Return an explanation as one HTML file without scripts or other files."""
    body = [f'<h1 class="{_class(found.good)}">{escape(found.headline)}</h1>']
    for section in found.sections:
        body.append(f"<h2>{escape(section.title)}</h2>\n<ul>")
        body += [_item(line) for line in section.lines]
        body.append("</ul>")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_CSS}</style>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _item(line: Line) -> str:
    mark = MARKS[line.held]
    return f'<li class="{_class(line.held)}" data-mark="{mark}">{escape(line.text)}</li>'


def _class(good: bool | None) -> str:
    return {True: "good", False: "bad", None: ""}[good]
