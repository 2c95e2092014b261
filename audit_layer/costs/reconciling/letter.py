"""A letter that disputes an invoice: as text, and as a page that prints well. Pure."""

import shlex
from html import escape
from typing import Final

from audit_layer.costs.invoicing import Outcome
from audit_layer.costs.proving.claims import line_ids
from audit_layer.costs.reconciling.words import Sentence, headline, in_words, is_petty
from audit_layer.costs.reporting import exact, rounded
from shared.codec.moment import day_of
from shared.runtime.printable import printable

_STYLE = (
    "body{font:11pt/1.5 Georgia,serif;max-width:42em;margin:3em auto;color:#111}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #bbb;padding:.35em;text-align:left}"
    "td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}@media print{body{margin:0}}"
)

MAX_NAMED: Final = 12
"""Lines whose command a letter has."""
_ATTACHED: Final = (
    "Each receipt bears your node's signature and has a proof of inclusion in the log. For each disputed line, a file shows"
    " what is behind it, which anyone checks offline with `counterfoil cost prove --verify FILE`. These commands write it:"
)


def letter_text(outcome: Outcome) -> str:
    """Return the letter as plain text."""
    result, invoice = outcome.result, outcome.invoice
    lines = [
        f"To {result.operator}",
        f"About your invoice {printable(result.invoice_id, 128)} of {invoice.issued},",
        f"for {invoice.first} to {invoice.end} (the day after the last)",
        "",
        headline(result),
        "",
        *_facts(outcome),
    ]
    for at, sentence in enumerate(_sentences(outcome), start=1):
        lines += ["", f"{at}. {sentence.part}", f"   {printable(sentence.text, 4000)}"]
    lines += ["", *_asked(outcome)]
    return "\n".join(lines) + "\n"


def letter_html(outcome: Outcome) -> str:
    """Return the letter as one page without scripts, which any browser prints as a PDF."""
    result, invoice = outcome.result, outcome.invoice
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{rounded(value, 6)}</td></tr>"
        for name, value in result.parts.items()
        if value
    )
    sentences = "".join(
        f"<li><p>{escape(printable(item.text, 4000))}</p></li>" for item in _sentences(outcome)
    )
    asked = "".join(f"<p>{escape(line)}</p>" for line in _asked(outcome) if line)
    facts = "".join(f"<p>{escape(line)}</p>" for line in _facts(outcome))
    number = escape(printable(result.invoice_id, 128))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f"<title>Dispute of invoice {number}</title><style>{_STYLE}</style></head><body>"
        f"<p>To {escape(result.operator)}</p><h1>Your invoice {number}</h1>"
        f"<p>of {invoice.issued}, for {invoice.first} to {invoice.end} (the day after the last)</p>"
        f"<p><strong>{escape(headline(result))}</strong></p>{facts}"
        f"<table><tr><th>Part of the difference</th><th class=n>{escape(result.currency)}</th></tr>{rows}"
        f"<tr><th>In total</th><th class=n>{rounded(result.gap, 6)}</th></tr></table>"
        f"<ol>{sentences}</ol>{asked}</body></html>\n"
    )


def _sentences(outcome: Outcome) -> list[Sentence]:
    names = outcome.names
    found = in_words(outcome.result, lambda root: names.get(root, root.hex()))
    currency = outcome.result.currency
    return [
        item for item in found if item.part != "rounding" or not is_petty(item.amount, currency)
    ]


def _facts(outcome: Outcome) -> list[str]:
    result = outcome.result
    told = [
        f"Billed, without tax: {exact(result.billed)} {result.currency}.",
        f"Proven by receipts in the log, at your signed rate card: {rounded(result.proven, 6)} {result.currency}.",
    ]
    if result.held:
        told.append(
            f"Of it, {rounded(result.held, 6)} {result.currency} is held: an audit failed, and a second worker has yet to decide."
        )
    return told


def _asked(outcome: Outcome) -> list[str]:
    result = outcome.result
    if not result.gap:
        return ["We have nothing to object to."]
    written = day_of(outcome.history[-1].at) if outcome.history else outcome.invoice.issued
    return [
        f"As of {written}, we ask you to correct the invoice, or to name the receipts that prove what we found unproven.",
        *_proofs(outcome),
    ]


def _proofs(outcome: Outcome) -> list[str]:
    """Say how what is proven of the disputed lines is shown, with the command for each of the first ones."""
    places = [
        place for key in outcome.result.keys if any(key.parts.values()) for place in key.places
    ]
    lines = line_ids(outcome.invoice, places)
    if not lines:
        return []
    told = [
        _ATTACHED,
        *(
            _command(outcome.id, at, line_id)
            for at, line_id in enumerate(lines[:MAX_NAMED], start=1)
        ),
    ]
    if len(lines) > MAX_NAMED:
        told.append(f"and likewise for {len(lines) - MAX_NAMED} more lines.")
    return told


def _command(number: int, at: int, line_id: str) -> str:
    """Return the command that proves a line; its number is the operator's text, so a shell must read it as one word."""
    word = shlex.quote(printable(line_id, 128))
    end = "-- " if word.startswith("-") else ""
    return f"counterfoil cost prove --out line-{at}.json {number} {end}{word}"
