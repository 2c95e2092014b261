"""A line's proof from a real server, with its published tiles and its witness, verifies by the log's policy alone."""

import base64

from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import log_policy
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.problems import from_problem
from shared.verification.line_proof import verify_line
from shared.verification.line_proof_file import LineProof, parse_line_proof
from shared.verification.trust import Trust
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.test_service import invoice, line
from tests.audit_layer.served import World, until

LINE = "1/2 %41"


async def fetched(world: World, number: int) -> LineProof:
    """Return the proof as soon as a witnessed checkpoint covers it."""

    async def attempt() -> LineProof:
        path = f"/v1/costs/invoices/{number}/lines/1%2F2%20%2541/proof"
        answer = await world.get(path, "finance")
        if answer.status_code != 200:
            raise from_problem(answer.status_code, answer.content, world.url)
        assert answer.headers["content-type"] == "application/json"
        return parse_line_proof(answer.content)

    found: LineProof = await until(attempt, Code.NOT_WITNESSED)
    return found


async def test_a_line_is_proved_by_the_policy_and_keys_of_a_stranger(world: World):
    rated = await world.ask("POST", "/v1/costs/rate", "finance", None, {})
    assert rated.json() == {"rated_receipts": 5}
    content = base64.b64encode(invoice(line("output", 20, "2", line_id=LINE))).decode()
    taken = await world.ask("POST", "/v1/costs/invoices", "finance", None, {"content": content})
    assert taken.status_code == 200, taken.text
    proof = await fetched(world, taken.json()["id"])
    pins = {name: {made.public(name)} for name in ("alpha", "acme", "worker")}
    trust = Trust(log_policy(load_settings(world.config))).with_signers(pins)
    report = verify_line(proof, trust)
    assert report.verified, report.steps[-1]
    assert report.facts["entries"] == world.filled.by_operator["alpha"][::2]  # those of acme
    assert report.facts["figures"]["proven"] == "0.028"
    assert report.facts["figures"]["difference"] == "0.012"
    assert list(report.facts["witnesses"]) == ["witness"]


async def test_only_finance_gets_a_proof(world: World):
    path = "/v1/costs/invoices/1/lines/1/proof"
    for role, scope in (("auditor", None), ("tenant", "acme"), ("operator", "alpha")):
        assert (await world.get(path, role, scope)).status_code == 403
    assert (await world.get(path, None)).status_code == 401
    for number in ("0", str(2**63), "x"):
        answer = await world.get(f"/v1/costs/invoices/{number}/lines/1/proof", "finance")
        assert isinstance(
            from_problem(answer.status_code, answer.content, world.url), CounterfoilError
        )
        assert answer.status_code in {400, 422}
