"""`python -m tests.adversaries.reference` prints docs/adversaries.md: the catalogue as a table, so that neither drifts."""

from collections.abc import Iterator

from shared.statements.verdicts import Reason
from tests.adversaries.adversary import Adversary
from tests.adversaries.catalogue import ADVERSARIES

HEADER = """# Adversaries

Made from `tests/adversaries/catalogue.py` by `make generate`.

Each adversary is the ordinary node program with one thing changed. `tests/adversaries/test_adversaries.py` runs a handful of
requests against every one of them and holds the auditor to this table: it names every audited request whose answer, bill or
receipt is not an honest node's, and no other. Nothing in a request, a receipt or the configuration tells the auditor which
adversary it faces.

    counterfoil up --demo --cheat NAME

runs the demonstration with one of them as the third node. `python -m tests.adversaries.node NAME serve --config node.toml`
runs it as a node of its own; the invoice of such a node claims an eighth more output tokens than its meter counted.

*The auditor says*: the outcome and reason of the verdict (protocol, section 6.3.1); any of several where the order of the checks
decides. *The client refuses*: whether a client with the model's tokenizer does not believe such an answer in the first place.
Where it does not, only an audit tells.

| name | what the node does | the auditor says | the client refuses |
|---|---|---|---|
"""
FOOTER = """
What changes no bit of an answer is not in the table, since nothing can tell it from the honest computation (protocol,
section 4.6). Nor is a prompt that was computed from the prefix cache and billed in full: how much two prompts have in common is
nobody's to read, and no rate card's price for cached tokens is above that for others.
"""


def _verdicts(reasons: frozenset[Reason]) -> str:
    said = [f"{reason.outcome} `{reason.value}`" for reason in Reason if reason in reasons]
    return " or ".join(said)


def _row(adversary: Adversary) -> str:
    refuses = "yes" if adversary.refusals else ""
    cells = (f"`{adversary.name}`", adversary.summary, _verdicts(adversary.expected), refuses)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _lines() -> Iterator[str]:
    yield HEADER
    for adversary in ADVERSARIES.values():
        yield _row(adversary) + "\n"
    yield FOOTER


def reference() -> str:
    """Return the page."""
    return "".join(_lines())


if __name__ == "__main__":
    print(reference(), end="")
