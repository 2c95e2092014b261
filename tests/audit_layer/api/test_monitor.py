"""A monitor follows a real audit server, with nothing of its database or configuration at hand."""

from pathlib import Path

import httpx

from audit_layer.monitor.client import ApiClient, Https
from audit_layer.monitor.monitor import Monitor, Round, Rules
from audit_layer.monitor.report import Reporter
from audit_layer.monitor.statements import Watch
from audit_layer.monitor.store import MonitorStore
from audit_layer.trail.service import Submission
from audit_layer.wiring.audit_settings import load_settings
from audit_layer.wiring.log_keys import log_policy
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.published import PublishedLog
from shared.verification.trust import Role, Trust
from tests.audit_layer.api import statements as made
from tests.audit_layer.monitor.doubles import Heard
from tests.audit_layer.served import ORIGIN, World, until

PINNED = Watch(
    trust=Trust(
        pins={Role.OPERATOR: {"alpha": (made.public("alpha"),), "beta": (made.public("beta"),)}}
    )
)


async def look(world: World, state: Path, heard: Heard, token: str) -> Round:
    log = Https(world.url, world.ca)
    tenant = Https(world.url, world.ca, headers={"authorization": f"Bearer {token}"})
    store = MonitorStore(state, ORIGIN)
    try:
        return await Monitor(
            store, log_policy(load_settings(world.config)), PublishedLog(log), ApiClient(log),
            ApiClient(tenant), Rules(watch=PINNED), Reporter(heard),
        ).once()  # fmt: skip
    finally:
        store.close()
        await log.aclose()
        await tenant.aclose()


async def covered(world: World, size: int) -> httpx.Response:
    """Wait until the published checkpoint covers a size."""

    async def attempt() -> httpx.Response:
        answer = await world.get("/checkpoint", None)
        if answer.status_code == 404 or int(answer.text.split("\n")[1]) < size:
            raise CounterfoilError(Code.NOT_FOUND, "not yet")
        return answer

    found: httpx.Response = await until(attempt, Code.NOT_FOUND)
    return found


async def test_everything_that_an_honest_server_shows_is_in_its_tree(world: World, tmp_path: Path):
    heard, state = Heard(), tmp_path / "monitor" / "state.db"
    token = world.token("tenant", "acme")
    size = (await world.get("/v1/status")).json()["size"]
    await covered(world, size)
    met = await look(world, state, heard, token)
    assert (met.findings, met.troubles) == (0, []), heard.events
    seen = [(fact["stream"], fact["type"]) for fact in heard.of("statement")]
    assert seen.count(("public", "key-bundle")) == seen.count(("public", "rate-card")) == 2
    assert seen.count(("receipts", "receipt")) == len(world.filled.receipts["acme"])
    assert seen.count(("disclosures", "disclosure-request")) == 1

    heard.events.clear()
    with world.core() as core:
        revoked = made.revocation("beta", world.filled.bundles["beta"])
        core.trail.submit([Submission(revoked)])
    await covered(world, size + 1)
    met = await look(world, state, heard, token)
    assert (met.findings, met.troubles) == (0, [])
    (news,) = heard.of("statement")
    assert (news["type"], news["index"]) == ("revocation", size)
