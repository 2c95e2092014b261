"""Public statements over HTTPS without a token: all that concern everybody, and no others."""

import base64
from typing import Any

from audit_layer.api import public_statements
from audit_layer.api.permissions import PUBLIC_TYPES
from audit_layer.trail.pages import Span
from audit_layer.trail.service import Accepted, Submission
from shared.statements.cose import parse_statement
from tests.audit_layer.api import statements as made
from tests.audit_layer.served import World

PATH = "/v1/public/statements"


async def pages(world: World, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: int | None = -1
    while after is not None:
        answer = await world.get(PATH, None, after=after, **query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        after = page["next"]
    return found


async def test_everybody_reads_the_public_statements_as_they_were_signed_and_no_others(
    world: World,
):
    with world.core() as core:
        rows = core.trail.statements(page=Span(limit=1000))
    public = [row for row in rows if row.type in PUBLIC_TYPES]
    assert 0 < len(public) < len(rows)
    for limit in (1, 2, 100):
        found = await pages(world, limit=limit)
        assert [(item["log_index"], item["entry"], item["type"]) for item in found] == [
            (row.log_index, row.entry.hex(), row.type) for row in public
        ]
    for item in found:
        statement = parse_statement(base64.b64decode(item["raw"]), expected=item["type"])
        assert statement.entry.hex() == item["entry"]


async def test_types_can_be_chosen_and_private_ones_are_refused(world: World):
    found = await pages(world, type=["key-bundle", "rate-card"])
    assert {item["type"] for item in found} == {"key-bundle", "rate-card"}
    for kind in ("receipt", "verdict", "disclosure-request", "nonsense"):
        answer = await world.get(PATH, None, type=["key-bundle", kind])
        assert answer.status_code == 400
        assert answer.json()["code"] == "INVALID_ARGUMENT"
    refused: tuple[dict[str, Any], ...] = ({"limit": 0}, {"limit": 257}, {"after": -2})
    for wrong in refused:
        assert (await world.get(PATH, None, **wrong)).status_code == 400


async def test_a_page_is_bounded_in_bytes_and_still_nothing_is_lost(world: World, monkeypatch):
    with world.core() as core:
        more = [made.bundle("alpha", not_after=made.NOW + n * made.HOUR) for n in range(1, 8)]
        results = core.trail.submit([Submission(raw) for raw in more])
    assert all(isinstance(result, Accepted) for result in results)
    whole = await pages(world)
    monkeypatch.setattr(public_statements, "MAX_PAGE_BYTES", 2 * len(more[0]) + 10)
    first = (await world.get(PATH, None)).json()
    assert 0 < len(first["items"]) < len(whole)
    assert await pages(world) == whole
    monkeypatch.setattr(public_statements, "MAX_PAGE_BYTES", 1)
    assert await pages(world) == whole  # a statement larger than a page comes by itself
