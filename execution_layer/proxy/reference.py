"""`python -m execution_layer.proxy.reference` prints docs/proxy-parameters.md, from the table that the server itself uses."""

import sys
from collections.abc import Sequence

from execution_layer.proxy.parameters import CHAT, COMPLETIONS, Parameter

_HEADER = """# What becomes of each parameter of the OpenAI API

Made from the proxy's own table by `make generate`. **Supported**: it does what the API says. **Refused**: a request with it
gets an error of status 400 that names it, unless its value is null or asks for nothing. **Ignored**: an answer does not depend
on it. Parameters that are not listed are ignored. In brackets: the default. How to use the proxy: [proxy.md](proxy.md).
"""
_PARTS = (("POST /v1/chat/completions", CHAT), ("POST /v1/completions", COMPLETIONS))


def reference() -> str:
    """Return the page."""
    return "\n".join([_HEADER, *(_part(title, table) for title, table in _PARTS)])


def _part(title: str, table: Sequence[Parameter]) -> str:
    rows = [f"| `{one.name}` | {one.standing} | {one.note} |" for one in table]
    head = ["| parameter | | |", "|---|---|---|"]
    return "\n".join([f"## `{title}`", "", *head, *rows, ""])


if __name__ == "__main__":
    sys.stdout.write(reference())
