"""Nodes by their names: those that a caller asks for, and errors that say whose they are. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from execution_layer.client.entries import NodeEntry
from shared.runtime.errors import Code, CounterfoilError

INCIDENT: Final = re.compile(r"[0-9a-f]{12}")


def told_by(node: str, error: CounterfoilError) -> CounterfoilError:
    """Return a node's error with the node's name, the incident number in that node's log, and its signed refusal, if any."""
    number = error.metadata.get("incident", "")
    incident = f" (incident {number})" if INCIDENT.fullmatch(number) else ""
    told = CounterfoilError(
        error.code,
        f"{node}: {error.detail}{incident if number not in error.detail else ''}",
        remedy=error.remedy,
        metadata={**error.metadata, "node": node},
        retry_after_s=error.retry_after_s,
    )
    told.statement = error.statement
    return told


def named(
    nodes: Sequence[NodeEntry], name: str | None, refused: Sequence[str]
) -> Sequence[NodeEntry]:
    """Return the nodes with a name; NOT_FOUND if there is none, with the reason if one was `refused`."""
    if name is None:
        return nodes
    found = [node for node in nodes if name in {node.bundle.node, node.name}]
    if not found:
        known = ", ".join(node.name for node in nodes)
        why = [
            f"; {reason}"
            for reason in refused
            if name in {*reason.split(), *reason.replace("/", " ").split()}
        ]
        raise CounterfoilError(
            Code.NOT_FOUND, f"no node is named {name}; there are: {known}{''.join(why[-1:])}"
        )
    return found
