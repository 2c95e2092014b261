"""The query API over HTTPS: who may see what, and what it looks like."""

import base64
import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from audit_layer.commands.standings import differences
from audit_layer.costs.service import Costs
from audit_layer.replay.models import WorkRow
from audit_layer.selection.models import EpochRow
from audit_layer.storage.engine import session
from audit_layer.trail.service import Accepted, Submission
from audit_layer.wiring import audit_server
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import log_policy
from audit_layer.wiring.openapi import schema_text
from shared.proto.counterfoil.audit.v1 import audit_pb2
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import secure_aio_channel
from shared.statements.cose import entry_of, read_as
from shared.statements.keys import KeyBundle
from shared.statements.verdicts import Reason
from shared.translog.policy import verify_witnessed
from shared.translog.tlog_proof import verify_tlog_proof
from shared.verification.judgement import Check, Difference, Judgement
from tests.audit_layer.api import statements as made
from tests.audit_layer.api.test_permissions import FINANCE_ONLY, MATRIX, QUERIES, filled
from tests.audit_layer.served import World, call, until
from tests.postgres import Database


async def test_a_tenant_sees_its_own_and_nothing_else_exists_for_it(world: World):
    filled = world.filled
    for name, other in (("acme", "bolt"), ("bolt", "acme")):

        async def own(path: str, name: str = name, **query: object) -> set[str]:
            page = (await world.get(path, "tenant", name, **query)).json()
            return {item["entry"] for item in page["items"]}

        assert await own("/v1/receipts") == {entry.hex() for entry in filled.receipts[name]}
        assert await own("/v1/verdicts") == {filled.verdicts[name].hex()}
        about = {filled.disclosures[name].hex(), filled.verdicts[name].hex()}
        assert await own("/v1/disclosures") == about
        for path in ("/v1/receipts", "/v1/verdicts", "/v1/disclosures"):
            assert (await world.get(path, "tenant", name, tenant=other)).status_code == 404
        for foreign in (
            filled.receipts[other][0],
            filled.verdicts[other],
            filled.disclosures[other],
        ):
            answer = await world.get(f"/v1/statements/{foreign.hex()}", "tenant", name)
            missing = await world.get(f"/v1/statements/{'0' * 64}", "tenant", name)
            assert answer.status_code == 404
            assert answer.json() == missing.json()
        for mine in (filled.receipts[name][0], filled.verdicts[name], filled.disclosures[name]):
            answer = await world.get(f"/v1/statements/{mine.hex()}", "tenant", name)
            assert answer.status_code == 200
    public = await world.get(f"/v1/statements/{filled.bundles['beta'].hex()}", "tenant", "acme")
    assert public.status_code == 200


async def test_an_operator_sees_its_own_receipts_and_verdicts(world: World):
    filled = world.filled
    page = (await world.get("/v1/receipts", "operator", "beta")).json()
    assert [item["entry"] for item in page["items"]] == [
        e.hex() for e in filled.by_operator["beta"]
    ]
    assert (
        await world.get("/v1/receipts", "operator", "beta", operator="alpha")
    ).status_code == 404
    assert (await world.get("/v1/verdicts", "operator", "beta")).json()["items"] == []
    foreign = filled.by_operator["alpha"][0].hex()
    assert (await world.get(f"/v1/statements/{foreign}", "operator", "beta")).status_code == 404
    assert (await world.get(f"/v1/statements/{foreign}", "operator", "alpha")).status_code == 200
    disclosed = filled.disclosures["acme"].hex()
    assert (await world.get(f"/v1/statements/{disclosed}", "operator", "alpha")).status_code == 404


async def test_pages_follow_each_other_and_lose_nothing(world: World):
    seen: list[str] = []
    after: int | None = -1
    while after is not None:
        page = (await world.get("/v1/receipts", limit=2, after=after)).json()
        assert len(page["items"]) <= 2
        seen += [item["entry"] for item in page["items"]]
        after = page["next"]
    expected = [e.hex() for entries in world.filled.by_operator.values() for e in entries]
    assert seen == expected
    filtered = await world.get("/v1/receipts", tenant="acme", operator="alpha", node="one")
    assert len(filtered.json()["items"]) == 2
    for wrong in ({"limit": 0}, {"limit": 1001}, {"after": -2}, {"model_root": "xyz"}):
        answer = await world.get("/v1/receipts", **wrong)
        assert answer.status_code == 400
        assert answer.json()["code"] == "INVALID_ARGUMENT"


STRICT: dict[str, dict[str, Any]] = {
    **{filled(path): QUERIES.get(path, {}) for path in MATRIX},
    "/v1/public/statements": {},
    "/timestamps": {},
    f"/v1/statements/{'0' * 64}": {},
}


BOOKS = {filled(path) for path, row in MATRIX.items() if row[:3] == FINANCE_ONLY}
"""What only finance may ask."""


async def test_a_parameter_that_a_route_does_not_know_is_refused_by_name(world: World):
    for path, needed in STRICT.items():
        role = "finance" if path in BOOKS else "auditor"
        answer = await world.get(path, role, **needed, tenannt="acme")
        assert answer.status_code == 400, path
        assert answer.json()["code"] == "INVALID_ARGUMENT"
        assert answer.json()["detail"] == "there is no parameter tenannt"
    answer = await world.get("/v1/receipts", tenannt="acme")
    assert answer.json()["remedy"] == "Did you mean tenant?"
    answer = await world.get("/v1/status", x="y")
    assert answer.json()["remedy"] == "This address takes none."
    assert (await world.get("/checkpoint", None, x="y")).status_code != 400


async def test_a_parameter_given_twice_or_not_printable_is_refused_by_name(world: World):
    for query, told in (
        ({"limit": [1, 2]}, "the parameter limit is given more than once"),
        ({"tenant": ["acme", "acme"]}, "the parameter tenant is given more than once"),
        ({"tenant": "a\0b"}, "the parameter tenant contains a character that cannot be printed"),
        ({"node": "\x1b[2J"}, "the parameter node contains a character that cannot be printed"),
    ):
        answer = await world.get("/v1/receipts", **query)
        assert (answer.status_code, answer.json()["detail"]) == (400, told)
    days = STRICT["/v1/costs/export"]
    answer = await world.get("/v1/costs/export", **days, time_zone="U\0TC")
    assert "time_zone" in answer.json()["detail"]
    span: dict[str, Any] = {"from": 0, "to": 1}
    answer = await world.get("/v1/tenants/a%00b/completeness", **span)
    assert "tenant" in answer.json()["detail"]
    types: dict[str, Any] = {"type": ["key-bundle", "rate-card"]}
    assert (await world.get("/v1/public/statements", None, **types)).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"tenant": "Acme"},
        {"operator": ""},
        {"node": "alpha/"},
        {"node": "a/b/c"},
        {"order": "newest"},
        {"started_from": "yesterday"},
    ],
    ids=str,
)
async def test_a_value_that_cannot_be_meant_is_refused_with_its_parameter(world: World, wrong):
    answer = await world.get("/v1/receipts", **wrong)
    assert answer.status_code == 400
    assert next(iter(wrong)) in answer.json()["detail"]


async def test_a_node_is_found_as_tables_show_it(world: World):
    async def entries(*who: str | None, path: str = "/v1/receipts", **query: str) -> list[str]:
        answer = await world.get(path, *who, **query)
        assert answer.status_code == 200, answer.text
        return [item["entry"] for item in answer.json()["items"]]

    for path in ("/v1/receipts", "/v1/verdicts"):
        apart = await entries(path=path, operator="alpha", node="one")
        assert apart
        assert await entries(path=path, node="alpha/one") == apart
        assert await entries(path=path, node="alpha/one", operator="alpha") == apart
        assert await entries(path=path, node="nowhere/one") == []
    answer = await world.get("/v1/receipts", node="alpha/one", operator="beta")
    assert answer.status_code == 400
    foreign = await world.get("/v1/receipts", "operator", "beta", node="alpha/one")
    assert foreign.status_code == 404


async def test_pages_from_the_newest_are_those_from_the_oldest_turned_round(world: World):
    async def walked(path: str, order: str) -> list[str]:
        seen: list[str] = []
        after: int | None = -1
        while after is not None:
            page = (await world.get(path, limit=2, after=after, order=order)).json()
            seen += [item["entry"] for item in page["items"]]
            after = page["next"]
        return seen

    for path in ("/v1/receipts", "/v1/verdicts", "/v1/epochs", "/v1/disclosures"):
        oldest = await walked(path, "asc")
        assert len(set(oldest)) == len(oldest) > 0, path
        assert await walked(path, "desc") == oldest[::-1], path


async def test_a_statement_is_found_by_the_beginning_of_its_entry(world: World, monkeypatch):
    entry = world.filled.receipts["acme"][0].hex()
    for digits in (12, 13, 40, 64):
        found = await world.get(f"/v1/statements/{entry[:digits]}")
        assert found.json()["entry"] == entry
    assert (await world.get(f"/v1/statements/{entry[:11]}")).status_code == 400
    assert (await world.get(f"/v1/statements/{'0' * 12}")).status_code == 404
    foreign = await world.get(f"/v1/statements/{entry[:12]}", "tenant", "bolt")
    assert foreign.status_code == 404
    several = (bytes(32), b"\xff" * 32)
    monkeypatch.setattr("audit_layer.trail.pages.parse_hex_prefix", lambda *_: several)
    answer = await world.get(f"/v1/statements/{entry[:12]}")
    assert answer.status_code == 400
    assert "several entries begin with" in answer.json()["detail"]


async def test_a_statement_carries_all_that_its_verification_needs(world: World):
    policy = log_policy(load_settings(world.config))
    entry = world.filled.receipts["acme"][0]

    async def proven() -> dict[str, object]:
        found: dict[str, object] = (await world.get(f"/v1/statements/{entry.hex()}")).json()
        if found["tlog_proof"] is None:
            raise CounterfoilError(Code.NOT_WITNESSED, "not yet")
        return found

    found = await until(proven, Code.NOT_WITNESSED)
    raw = base64.b64decode(str(found["raw"]))
    assert entry_of(raw) == entry
    assert verify_tlog_proof(str(found["tlog_proof"]), entry, policy).checkpoint.size > 0
    payload = found["payload"]
    assert isinstance(payload, dict)
    assert payload["tenant"] == "acme"
    assert payload["usage"]["energy_quality"] == "unmeasured"
    assert "energy_mj" not in payload["usage"]
    receipt = (await world.get("/v1/receipts", limit=1)).json()["items"][0]
    assert receipt["energy_mj"] is None


async def test_the_published_log_needs_no_token_and_leads_nowhere_else(world: World):
    async def note() -> str:
        answer = await world.get("/checkpoint", None)
        if answer.status_code == 404:
            raise CounterfoilError(Code.NOT_FOUND, "not yet")
        return answer.text

    text = await until(note, Code.NOT_FOUND)
    policy = log_policy(load_settings(world.config))
    size = verify_witnessed(text, policy).checkpoint.size
    tile = await world.get(f"/tile/0/000.p/{size}", None)
    assert len(tile.content) == 32 * size
    assert "immutable" in tile.headers["cache-control"]
    assert (await world.get("/checkpoint", None)).headers["cache-control"].startswith("no-cache")
    for path in (
        "/tile/../keys/log-ed25519",
        "/tile/%2e%2e/%2e%2e/audit.toml",
        "/tile/..%2f..%2faudit.toml",
        "/tile/0/000.p/0",
        "/tile//etc/passwd",
        "/tile/99/000",
    ):
        assert (await world.get(path, None)).status_code == 404, path


async def test_a_revoked_or_invented_token_opens_nothing(world: World):
    token = world.token("auditor")
    with world.core() as core:
        (row,) = [row for row in core.tokens.list() if row.role == "auditor"]
        assert token not in str(row.__dict__)
        core.tokens.revoke(row.id)
    revoked = await world.get("/v1/status")
    world._tokens["auditor", None] = "A" * 43
    invented = await world.get("/v1/status")
    world._tokens["auditor", None] = "short"
    short = await world.get("/v1/status")
    assert revoked.status_code == invented.status_code == short.status_code == 401
    assert revoked.json() == invented.json() == short.json()
    assert revoked.headers["www-authenticate"] == "Bearer"


async def test_health_metrics_and_status_count_what_is_there(world: World):
    assert (await world.get("/healthz", None)).json() == {"status": "ok"}
    status = (await world.get("/v1/status")).json()
    assert status["statements"]["receipt"] == 5
    assert status["size"] == sum(status["statements"].values())
    metrics = (await world.get("/metrics", None)).text
    assert f"counterfoil_log_size {status['size']}\n" in metrics
    assert 'counterfoil_statements{type="receipt"} 5\n' in metrics


@pytest.fixture
def quick_health(monkeypatch):
    monkeypatch.setattr(audit_server, "HEALTH_S", 0.05)


async def grpc_health_becomes(world: World, status: int) -> None:
    async with secure_aio_channel(world.grpc, world.ca) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its types lack Watch
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(), timeout=30):
            if answer.status == status:
                return


async def test_health_notices_a_database_that_is_behind_what_was_signed_or_published(
    quick_health, world: World, database: Database
):
    """What a restored older dump looks like: the same log, shorter than the world knows it to be."""

    async def all_is_witnessed() -> None:
        status = (await world.get("/v1/status")).json()
        if status["witnessed_size"] != status["size"]:
            raise CounterfoilError(Code.NOT_WITNESSED, "not yet")

    await until(all_is_witnessed, Code.NOT_WITNESSED)
    kept = load_settings(world.config).second_place
    with psycopg.connect(database.owner_dsn, autocommit=True) as owner:
        state = owner.execute("SELECT size, root FROM log_state").fetchone()
        owner.execute("UPDATE log_state SET size = 1, root = %s", [bytes(32)])
        for where, known in (("signed", kept.read_bytes()), ("published", None)):
            if known is None:  # the second place was lost or restored as well
                kept.unlink()
                owner.execute("DELETE FROM log_checkpoints")
            answer = await world.get("/healthz", None)
            assert answer.status_code == 503
            assert f"ends at 1, before the checkpoint {where} at" in answer.json()["detail"]
            assert answer.json()["code"] == "FORK"
            await grpc_health_becomes(world, health_pb2.HealthCheckResponse.NOT_SERVING)
        kept.write_bytes(bytes(16384))
        owner.execute("UPDATE log_state SET size = %s, root = %s", state)
    assert (await world.get("/healthz", None)).json() == {"status": "ok"}
    await grpc_health_becomes(world, health_pb2.HealthCheckResponse.SERVING)


def test_the_schema_in_the_docs_is_the_one_that_is_served():
    path = Path(__file__).parents[3] / "docs" / "openapi.json"
    assert path.read_text(encoding="utf-8") == schema_text(), (
        "run: python -m audit_layer.wiring.openapi > docs/openapi.json"
    )
    assert "/v1/receipts" in json.loads(schema_text())["paths"]


@pytest.mark.parametrize(("role", "scope"), [("tenant", None), ("auditor", "acme")])
def test_a_scope_is_required_of_those_roles_that_have_one(database, role, scope):
    from audit_layer.api.tokens import Role, Tokens

    with pytest.raises(CounterfoilError) as refused:
        Tokens(database.engine("server")).create(Role(role), scope)
    assert refused.value.code is Code.INVALID_ARGUMENT


async def test_costs_are_exact_texts_and_a_tenant_sees_what_it_owes_and_no_more(world: World):
    with world.core() as core:
        Costs(core.engine).rate_new()
    seen = {
        scope: (await world.get("/v1/costs/totals", role, scope)).json()
        for role, scope in (("finance", None), ("tenant", "acme"), ("tenant", "bolt"))
    }
    amounts = {name: sum(Decimal(row["amount"]) for row in rows) for name, rows in seen.items()}
    assert amounts[None] == amounts["acme"] + amounts["bolt"] > 0
    assert sum(row["receipts"] for row in seen["acme"]) == len(world.filled.receipts["acme"])


async def test_focus_rows_of_a_tenant_are_its_own_and_a_period_is_half_open(world: World):
    with world.core() as core:
        Costs(core.engine).rate_new()

    async def rows(scope: str | None, start: str, end: str) -> list[dict[str, str]]:
        role = "tenant" if scope else "finance"
        answer = await world.get(
            "/v1/costs/export", role, scope, format="focus-1.2-csv", start=start, end=end
        )
        assert answer.status_code == 200
        return list(csv.DictReader(io.StringIO(answer.text)))

    every = await rows(None, "2020-01-01", "2100-01-01")
    acme, bolt = [await rows(name, "2020-01-01", "2100-01-01") for name in ("acme", "bolt")]
    assert len(every) == len(acme) + len(bolt) > len(acme) > 0
    assert sum(Decimal(row["BilledCost"]) for row in every) > 0
    assert await rows(None, "2020-01-01", "2020-01-02") == []
    for query in (
        {},
        {"start": "2020-01-02", "end": "2020-01-01"},
        {"start": "2020-01-01", "end": "2020-01-01"},
        {"start": "1577836800", "end": "2100-01-01"},  # a number is no day
        {"start": "2020-01-01T00:00:00Z", "end": "2100-01-01"},
        {"start": "2020-01-01", "end": "2100-01-01", "time_zone": "Mars/Base"},
    ):
        answer = await world.get("/v1/costs/export", "finance", format="focus-1.2-csv", **query)
        assert answer.status_code == 400, query
    assert len(await rows(None, "2020-01-01", "9999-12-31")) == len(every)


async def test_an_account_shows_the_judgement_behind_each_verdict_to_those_concerned(
    world: World, database: Database
):
    """Of a receipt that a worker judged: its checks, their digest as the verdict has it, and what is payable."""
    receipt = world.filled.receipts["bolt"][1]
    found = Judgement(
        Reason.TOKENS,
        {"output_tokens": 7},
        (Check(8, "tokens", Reason.TOKENS, Difference("one", "other", {"output_position": 2})),),
    )
    statement = made.verdict(receipt, reason=Reason.TOKENS, evidence=found.digest)
    with world.core() as core:
        (logged,) = core.trail.submit([Submission(statement)])
        assert isinstance(logged, Accepted)
        Costs(core.engine).rate_new()
    with session(database.engine("worker")) as db:
        db.add(EpochRow(epoch=0, state="sealed", opened_at=1, open_index=0, first=1, size=999,
                        open_statement=made.epoch_open()))  # fmt: skip
        db.flush()
        row = WorkRow(receipt=receipt, kind="primary", epoch=0, worker="worker", deadline=9,
                      request_statement=made.disclosure_request(receipt), verdict_statement=statement,
                      judgement=found.to_bytes())  # fmt: skip
        db.add(row)
    path = f"/v1/receipts/{receipt.hex()}/account"
    for role, scope in (("tenant", "bolt"), ("operator", "beta"), ("auditor", None)):
        answer = (await world.get(path, role, scope)).json()
        (opinion,) = answer["opinions"]
        assert opinion["verdict"]["entry"] == logged.entry.hex()
        assert opinion["judgement"]["digest"] == found.digest.hex()
        (check,) = opinion["judgement"]["checks"]
        assert (check["held"], check["where"]) == (False, {"output_position": 2})
        assert answer["epoch"]["number"] == 0
        assert answer["payable"]["state"] == "held"
    for role, scope in (("tenant", "acme"), ("operator", "alpha")):
        assert (await world.get(path, role, scope)).status_code == 404


async def test_the_directory_and_the_query_api_show_the_same_standing(world: World):
    """And `counterfoil audit standing --check` computes it again from the verdicts."""
    async with world.stubs() as (_, _, directory):
        listed = await call(directory.ListKeyBundles, audit_pb2.ListKeyBundlesRequest())
    shown = {
        read_as(KeyBundle, entry.statement).operator: entry.standing for entry in listed.bundles
    }
    assert shown == {"alpha": "new", "beta": "new"}
    (row,) = (await world.get("/v1/standings", "tenant", "bolt")).json()
    assert (row["operator"], row["standing"], row["passed"]) == ("alpha", "new", 2)

    async def ask(path: str, **given: Any) -> Any:
        return (await world.get(path, **given)).json()

    pages = {"/v1/verdicts": await ask("/v1/verdicts", order="asc", limit=1000)}
    assert differences(lambda path, **_: pages[path], [row]) == []
    for lie in ({"passed": 3}, {"standing": "good"}, {"node": "two"}):
        (told,) = differences(lambda path, **_: pages[path], [{**row, **lie}])
        assert "the server says" in told
