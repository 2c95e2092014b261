"""Is that all? An answer with a proof: complete only when it is, and a document that hides something does not verify."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit_layer.commands.completeness import complete, gaps
from audit_layer.trail.completeness_document import build
from audit_layer.trail.service import Submission
from shared.codec.moment import Period
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import read_as, sign
from shared.statements.seals import Missing, OrderNumbers, TenantSeal, entries_digest
from shared.verification.completeness import Document, TrustPart, parse_document, parse_trust
from shared.verification.completeness_check import Answer, judge
from tests.audit_layer.api import statements as made
from tests.audit_layer.api.chain import Parties, stage_bundle
from tests.audit_layer.selection.sealing_court import (
    BEGAN,
    DAY,
    END,
    GRACE,
    Court,
    court,
    make,
    world,
)
from tests.audit_layer.served import World as Server
from tests.audit_layer.served import world as server
from tests.audit_layer.trail.test_identities import add, end, put
from tests.audit_layer.trail.test_intake import reordered

__all__ = ["court", "make", "server", "world"]

TODAY = Period(END - DAY, END)


def document(court: Court, period: Period = TODAY, **options: Any) -> Document:
    """Ask as the audit server does, and send the answer once through its file form."""
    court.server.publish()
    engine = court.world.database.engine("server")
    found = build(engine, court.log.proofs(), "acme", period, **options)
    return parse_document(found.model_dump_json().encode())


def answer(court: Court, period: Period = TODAY, **options: Any) -> Answer:
    found = document(court, period, **options)
    return judge(found, found.trust.trust())


def altered(found: Document, change: dict[str, Any], *path: str | int) -> Document:
    """The document with other values somewhere, as a forger would write it."""
    data = json.loads(found.model_dump_json())
    place: Any = data
    for key in path:
        place = place[key]
    place.update(change)
    return parse_document(json.dumps(data).encode())


# -- the answer ----------------------------------------------------------------------------------------


def test_a_sealed_day_is_complete_and_the_proof_needs_no_database(court: Court):
    entries = court.put(BEGAN, BEGAN, BEGAN)
    court.put(BEGAN, tenant="bolt")
    court.tick(END + GRACE)
    found = document(court)
    court.world.database.allow(connections=False)
    said = judge(found, found.trust.trust())
    court.world.database.allow(connections=True)
    assert (said.complete, said.because) == (True, ())
    assert (said.inferences, said.orders, said.late, said.unsealed) == (3, 3, 0, 0)
    lines = found.seals[0].receipts
    assert lines is not None
    assert [line.entry for line in lines] == [entry.hex() for entry in entries]
    assert not said.receipts_shown


def test_the_parts_of_a_chain_are_sealed_and_listed_and_have_no_number_of_their_own(court: Court):
    (bundle,) = court.world.put(Submission(stage_bundle("beta", 1, 2)))
    stage = made.Node("beta", bundle.entry, court.world.card)
    chain = Parties(court.world.node, [stage])
    head, part = chain.answer(0)
    _, loose = chain.answer(1)
    third, last = chain.answer(2)
    court.world.put(head, part, loose, third, last)
    court.tick(END + GRACE)
    said = answer(court)
    assert (said.complete, said.inferences, said.missing) == (False, 2, ((1, 1),))
    found = document(court, statements=True)
    lines = found.seals[0].receipts or ()
    assert [line.part for line in lines] == [False, True, True, False, True]
    for place, claimed in ((1, False), (0, True)):
        forged = altered(found, {"part": claimed}, "seals", 0, "receipts", place)
        with pytest.raises(CounterfoilError, match=r"place in a chain|do not follow"):
            judge(forged, found.trust.trust())
    hidden = altered(found, {"part": True, "statement": None}, "seals", 0, "receipts", 3)
    with pytest.raises(CounterfoilError, match="do not follow"):
        judge(hidden, found.trust.trust())


def test_what_is_not_sealed_yet_is_reported(court: Court):
    court.put(BEGAN)
    said = answer(court)
    assert (said.complete, said.inferences, said.unsealed) == (False, 1, 1)
    assert "no seal" in said.because[0]
    court.tick(END + GRACE)
    court.put(BEGAN)  # late
    said = answer(court)
    assert (said.complete, said.inferences, said.unsealed) == (False, 2, 1)
    assert said.because == ("1 receipt is not yet counted by any seal",)
    court.tick(END + DAY + GRACE)
    said = answer(court)
    assert (said.complete, said.inferences, said.late, said.unsealed) == (True, 2, 1, 0)
    beyond = answer(court, Period(END - DAY, END + 2 * DAY))
    assert not beyond.complete
    assert "sealed only up to" in beyond.because[0]


def test_a_seal_that_no_witness_has_seen_proves_nothing_yet(court: Court):
    court.put(BEGAN)
    court.tick(END + GRACE)
    engine = court.world.database.engine("server")
    found = build(engine, court.log.proofs(), "acme", TODAY)
    said = judge(found, found.trust.trust())
    assert said.because == ("no witnessed checkpoint covers seal 0 yet",)


def test_a_skipped_order_number_makes_its_day_and_the_next_incomplete(court: Court):
    held = [court.world.node.receipt("acme", started=BEGAN) for _ in range(4)]
    court.world.put(held[0], held[3])
    court.tick(END + GRACE)
    said = answer(court)
    assert (said.complete, said.inferences, said.missing) == (False, 2, ((1, 2),))
    assert said.because == ("2 order numbers have no receipt and no refusal: 1 to 2",)
    court.world.put(held[1], held[2])
    court.tick(END + DAY + GRACE)
    said = answer(court)
    assert (said.complete, said.inferences, said.late, said.missing) == (True, 4, 2, ())


def test_a_number_that_is_missing_at_a_days_edge_counts_against_both_days(court: Court):
    """Only the tenant knows on which day it was ordered."""
    began = made.NOW // DAY * DAY
    (accepted,) = court.world.put(Submission(made.bundle("alpha", not_after=began + DAY // 2)))
    court.world.node.bundle = accepted.entry
    court.put(began - 1000)
    court.world.node.receipt("acme")  # ordered, and never handed in
    court.world.node.number -= 1
    court.world.node.previous = bytes.fromhex(court.world.rows(
        "SELECT encode(entry, 'hex') FROM trail_receipts ORDER BY log_index DESC LIMIT 1"
    )[0][0])  # fmt: skip
    court.put(began + 1000)
    court.tick(began + DAY + GRACE)
    assert court.tick(began + DAY + GRACE) == 0
    for day in (Period(began - DAY, began), Period(began, began + DAY)):
        assert answer(court, day).missing == ((1, 1),), day


def test_a_period_before_the_first_seal_or_between_days_is_answered_too(court: Court):
    court.put(BEGAN, BEGAN)
    court.tick(END + 2 * DAY + GRACE)
    assert answer(court, Period(END - 30 * DAY, END - 20 * DAY)).complete
    assert answer(court, Period(END, END + DAY)).inferences == 0
    part = answer(court, Period(BEGAN - 10, BEGAN + 1))
    assert (part.complete, part.inferences) == (True, 2)
    hidden = document(court, Period(BEGAN - 10, BEGAN + 1))
    for change in ({"started": BEGAN + 5}, {"started": BEGAN + 5, "statement": None}):
        assert refusal(altered(hidden, change, "seals", 0, "receipts", 1)).code is Code.BAD_PROOF
    none = answer(court, Period(BEGAN + 1, BEGAN + 2))
    assert (none.complete, none.inferences) == (True, 0)


def test_the_signed_receipts_can_be_shown_and_are_compared_with_their_lines(court: Court):
    court.put(BEGAN)
    court.tick(END + GRACE)
    found = document(court, statements=True)
    assert judge(found, found.trust.trust()).receipts_shown
    forged = altered(found, {"attempt": 5}, "seals", 0, "receipts", 0)
    with pytest.raises(CounterfoilError) as refused:
        judge(forged, forged.trust.trust())
    assert "does not match its line" in refused.value.detail


def test_more_receipts_than_one_answer_may_list_are_refused(court: Court):
    court.put(BEGAN, BEGAN, BEGAN)
    court.tick(END + GRACE)
    assert answer(court, limit=3).inferences == 3
    with pytest.raises(CounterfoilError) as refused:
        document(court, limit=2)
    assert refused.value.code is Code.INVALID_ARGUMENT


# -- forged documents ----------------------------------------------------------------------------------


@pytest.fixture
def genuine(court: Court) -> Document:
    """Three seals; the first day has three receipts, one of them late."""
    court.put(BEGAN, BEGAN)
    court.tick(END + GRACE)
    court.put(BEGAN)
    court.tick(END + 2 * DAY + GRACE)
    found = document(court, Period(END - DAY, END + DAY))
    said = judge(found, found.trust.trust())
    assert (said.complete, said.inferences, said.late) == (True, 3, 1)
    return found


def refusal(forged: Document) -> CounterfoilError:
    with pytest.raises(CounterfoilError) as refused:
        judge(forged, forged.trust.trust())
    return refused.value


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ((), {"tenant": "bolt"}),
        ((), {"seals": []}),
        (("seals", 0), {"receipts": []}),
        (("seals", 0), {"receipts": None}),
        (("seals", 1), {"late": []}),
        (("seals", 1), {"late": None}),
        (("seals", 0, "receipts", 0), {"entry": "00" * 32}),
        (("seals", 0, "receipts", 0), {"number": 7}),
        (("seals", 0, "receipts", 0), {"started": END}),
        (("seals", 0, "receipts", 0), {"index": 2**62}),
        (("seals", 1, "late", 0), {"index": 0}),
        (("seals", 1, "late", 0), {"number": 0}),
        (("seals", 1, "late", 0), {"statement": None}),
        (("seals", 1, "late", 0), {"statement": None, "started": 5}),
        (("seals", 1, "late", 0), {"started": 5}),
        (("seals", 1), {"statement": "AAAA"}),
        (("seals", 1), {"statement": "!"}),
        (("seals", 1), {"tlog_proof": "c2sp.org/tlog-proof@v1\n"}),
    ],
)
def test_a_document_that_hides_or_changes_something_does_not_verify_as_complete(
    genuine: Document, path: tuple[str | int, ...], change: dict[str, Any]
):
    forged = altered(genuine, change, *path)
    try:
        said = judge(forged, forged.trust.trust())
    except CounterfoilError as error:
        assert error.code in {Code.BAD_PROOF, Code.MALFORMED}  # noqa: PT017
    else:
        assert not said.complete


@pytest.mark.parametrize("at", [0, 1])
def test_a_seal_omitted_from_the_chain_shows(genuine: Document, at: int):
    forged = genuine.model_copy(update={"seals": (*genuine.seals[:at], *genuine.seals[at + 1 :])})
    assert refusal(forged).code is Code.BAD_PROOF


def test_omitting_the_newest_seal_leaves_an_answer_as_of_the_one_before(genuine: Document):
    """Nobody can prove that there is no later seal; the answer says how far it reaches."""
    older = genuine.model_copy(update={"seals": genuine.seals[:2]})
    assert (
        judge(older, older.trust.trust()).as_of_size
        == judge(genuine, genuine.trust.trust()).as_of_size
    )
    assert not judge(
        genuine.model_copy(update={"seals": genuine.seals[:1]}), genuine.trust.trust()
    ).complete


def test_proofs_of_two_seals_cannot_be_swapped(genuine: Document):
    one, two, *rest = genuine.seals
    swapped = (
        one.model_copy(update={"tlog_proof": two.tlog_proof}),
        two.model_copy(update={"tlog_proof": one.tlog_proof}),
        *rest,
    )
    assert refusal(genuine.model_copy(update={"seals": swapped})).code is Code.BAD_PROOF


def test_the_checkers_own_keys_decide_and_not_those_that_the_document_brings(genuine: Document):
    trust = genuine.trust
    for other, code in (
        ({"authority": (made.public("worker").hex(),)}, Code.UNTRUSTED_KEY),
        ({"authority": ()}, Code.UNTRUSTED_KEY),
        ({"quorum": 2}, Code.CONFIGURATION),
        ({"witnesses": trust.logs[1:]}, Code.CONFIGURATION),
    ):
        with pytest.raises(CounterfoilError) as refused:
            judge(genuine, trust.model_copy(update=other).trust())
        assert refused.value.code is code, other


def test_an_authority_that_miscounts_is_convicted_by_the_receipts(court: Court, genuine: Document):
    """A seal over two of three receipts, properly signed, does not fit a list with all three."""
    raw = base64.b64decode(genuine.seals[0].statement)
    seal = read_as(TenantSeal, raw)
    lines = genuine.seals[0].receipts
    assert lines is not None

    lying = replace(
        seal,
        receipts=1,
        entries=entries_digest([bytes.fromhex(lines[0].entry)]),
        orders=OrderNumbers(2, (Missing(0, 0),)),
    )
    statement = sign(lying, key=made.key("authority"), issuer="authority")
    change = {"statement": base64.b64encode(statement).decode(), "tlog_proof": None}
    forged = altered(genuine, change, "seals", 0)
    forged = forged.model_copy(update={"seals": forged.seals[:1]})
    assert "not those that it counts" in refusal(forged).detail


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff", b'{"format": "other"}', b"[" * 100_000]
)
def test_what_is_not_a_document_is_refused_with_a_reason(data: bytes):
    for parse in (parse_document, parse_trust):
        with pytest.raises(CounterfoilError) as refused:
            parse(data)
        assert refused.value.code is Code.MALFORMED


# -- commands and route --------------------------------------------------------------------------------


def test_a_document_is_checked_on_the_command_line_and_says_whose_keys_were_trusted(
    genuine: Document, tmp_path: Path
):
    file, policy = tmp_path / "all.json", tmp_path / "policy.json"
    file.write_text(genuine.model_dump_json())
    policy.write_text(genuine.trust.model_dump_json())
    own = CliRunner().invoke(
        complete, ["--check", str(file), "--policy", str(policy), "--json"], standalone_mode=False
    )
    assert own.return_value == 0, own.output
    said = json.loads(own.stdout)
    assert said["answer"]["inferences"] == 3
    assert said["trusted"] == str(policy)
    brought = CliRunner().invoke(complete, ["--check", str(file)], standalone_mode=False)
    assert brought.return_value == 0
    shown = " ".join(brought.stdout.split())
    assert "3 inferences, complete" in shown
    assert "not with anyone you chose" in shown
    assert "1 of them came after their period's tenant seal" in shown
    stranger = genuine.trust.model_copy(update={"authority": (made.public("worker").hex(),)})
    policy.write_text(stranger.model_dump_json())
    assert run(complete, ["--check", str(file), "--policy", str(policy)]) == 3
    assert run(complete, ["--check", str(tmp_path / "none")]) == 2
    assert run(complete, ["--check", str(file), "--tenant", "acme"]) == 2
    assert run(complete, ["--tenant", "acme"]) == 2
    assert TrustPart.model_validate_json(policy.read_text()) == stranger


async def test_the_route_answers_the_tenant_itself_and_auditors_with_what_the_check_reads(
    server: Server,
):
    path = "/v1/tenants/acme/completeness"
    span: dict[str, Any] = {"from": 0, "to": made.NOW + DAY}
    for role, scope, status in (
        ("tenant", "acme", 200),
        ("auditor", None, 200),
        ("tenant", "bolt", 404),
        ("operator", "alpha", 403),
        ("finance", None, 403),
        (None, None, 401),
    ):
        assert (await server.get(path, role, scope, **span)).status_code == status, role
    found = parse_document((await server.get(path, **span)).content)
    said = judge(found, found.trust.trust())
    assert (said.complete, said.inferences) == (False, len(server.filled.receipts["acme"]))
    assert (await server.get(path, **{**span, "to": 0})).status_code == 400
    assert (await server.get(path)).status_code == 400


async def test_the_commands_ask_the_database_of_a_running_server(server: Server, tmp_path: Path):
    at = ["--config", str(server.config)]
    out = tmp_path / "all.json"
    span = ["--tenant", "acme", "--from", "2020-01-01", "--to", "2100-01-01"]
    asked = CliRunner().invoke(complete, [*span, *at, "--out", str(out)], standalone_mode=False)
    assert asked.return_value == 1
    assert "3 inferences, not complete because" in " ".join(asked.stdout.split())
    assert out.stat().st_mode & 0o077 == 0
    assert judge(
        parse_document(out.read_bytes()), parse_document(out.read_bytes()).trust.trust()
    ).unsealed
    looked = CliRunner().invoke(gaps, [*at, "--json"], standalone_mode=False)
    found = json.loads(looked.stdout)
    # `beta` numbers its orders from 1000, within the grace period
    assert [row["issuer"] for row in found["gaps"]] == ["acme", "bolt"]
    assert looked.return_value == 0


def with_a_refusal(court: Court) -> Document:
    court.put(BEGAN)
    court.world.put(court.world.node.refusal("acme", at=BEGAN))
    court.put(BEGAN)
    court.tick(END + GRACE)
    return document(court)


def test_a_refused_number_is_not_missing(court: Court):
    found = with_a_refusal(court)
    told = judge(found, found.trust.trust())
    assert (told.complete, told.missing, told.inferences, told.refused) == (True, (), 2, 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"refusals": []}, "are not those that it counts"),
        ({"entry": "00" * 32}, "are not those that it counts"),
        ({"index": 9999}, "is not of its period"),
        ({"statement": "other"}, "does not match its line"),
    ],
)
def test_a_document_that_hides_or_changes_a_refusal_does_not_verify(court: Court, change, told):
    found = with_a_refusal(court)
    if change.get("statement"):
        another = court.world.node.refusal("acme", at=BEGAN)
        change = {"statement": base64.b64encode(another.statement).decode()}
    where = ("seals", 0) if "refusals" in change else ("seals", 0, "refusals", 0)
    with pytest.raises(CounterfoilError, match=told):
        judge(altered(found, change, *where), found.trust.trust())


def test_an_authority_that_leaves_a_refusal_out_of_its_seal_is_told_by_what_it_leaves_missing(
    court: Court,
):
    """The number is then missing, and the tenant holds the refusal with its proof of inclusion below the seal's size."""
    found = with_a_refusal(court)
    seal = read_as(TenantSeal, base64.b64decode(found.seals[0].statement))
    hidden = replace(seal, refusals=None, orders=OrderNumbers(3, (Missing(1, 1),)))
    raw = base64.b64encode(sign(hidden, key=made.key("authority"), issuer="authority")).decode()
    change: dict[str, Any] = {"statement": raw, "refusals": [], "tlog_proof": None}
    told = judge(altered(found, change, "seals", 0), found.trust.trust())
    assert told.missing == ((1, 1),)
    assert "1 order numbers have no receipt and no refusal: 1" in told.because


def test_a_day_in_which_the_tenants_key_rotated_is_complete_and_hides_no_refused_order(
    court: Court,
):
    """An order by the ended key is in no log; its number is the tenant's to close, and it goes to the newer key's next order."""
    node = court.world.node
    first = node.receipt("acme", started=BEGAN)
    court.world.put(first)
    put(court.world, add("acme", "acme 2", "acme"), end("acme 2", "acme", "acme"))
    court.world.put(reordered(node.receipt("acme", started=BEGAN), key=made.key("acme 2")))
    held = node.receipt("acme", started=BEGAN)
    third, fourth = (held, node.receipt("acme", started=BEGAN))
    stranger = reordered(third, key=made.key("stranger"))
    assert court.world.code(stranger.statement, stranger.order) is Code.UNTRUSTED_KEY
    court.world.put(reordered(fourth, key=made.key("acme 2")))
    court.tick(END + GRACE)
    said = answer(court)
    assert (said.complete, said.inferences, said.missing) == (False, 3, ((2, 2),))
    court.world.put(reordered(third, key=made.key("acme 2")))
    court.tick(END + DAY + GRACE)
    said = answer(court)
    assert (said.complete, said.inferences, said.late, said.missing) == (True, 4, 1, ())
