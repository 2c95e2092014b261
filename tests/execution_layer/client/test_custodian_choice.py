"""Which custodians get shares: those whose record, proved under the client's own log, is not worse than its policy accepts."""

import base64
import json

import pytest

from execution_layer.client.custodian_choice import choose_custodians
from execution_layer.client.policy import ClientPolicy, Custodian, CustodianStanding, Log
from shared.envelope.hpke import generate_hpke_key
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from tests.shared.selection.world import AUTHORITY, LOG, WITNESS
from tests.shared.verification.disclosures import CUSTODIANS
from tests.shared.verification.test_custodian_record import LATER, ONE, THREE, TWO, Court

KEY = generate_hpke_key().public_bytes.hex()


@pytest.fixture
def court():
    return Court()


def policy_of(folder, court, *, threshold=1, tenant="acme", edit=None, quorum=1, **demanded):
    """The policy of a client that has fetched the record."""
    data = court.book.document(seen=LATER).model_dump(mode="json")
    data["trust"] = {
        "logs": [LOG.verifier.vkey()], "witnesses": [WITNESS.verifier.vkey()], "quorum": 1,
        "authority": [public_bytes(AUTHORITY).hex()], "signers": {},
    }  # fmt: skip
    if edit is not None:
        edit(data)
    path = folder / "record.json"
    path.write_text(json.dumps(data))
    return ClientPolicy.model_construct(
        tenant=tenant,
        threshold=threshold,
        custodians=tuple(Custodian(name=name, hpke_key=KEY) for name in (*CUSTODIANS, "new")),
        log=Log(keys=(LOG.verifier.vkey(),), witnesses=(WITNESS.verifier.vkey(),), quorum=quorum),
        custodian_standing=CustodianStanding(record=path, **demanded),
    )


def names(choice):
    return [item.name for item in choice.kept]


def absent(court, *present):
    """Have a request answered by these only, and sealed after its deadline."""
    court.put(*present)
    court.book.seal(at=LATER)


def test_who_misses_nothing_or_was_never_asked_is_kept(tmp_path, court):
    choice = choose_custodians(policy_of(tmp_path, court))
    assert (names(choice), choice.left_out) == ([*CUSTODIANS, "new"], {})


def test_who_has_missed_more_than_the_policy_accepts_gets_no_share(tmp_path, court):
    absent(court, ONE, TWO)
    choice = choose_custodians(policy_of(tmp_path, court))
    assert names(choice) == [ONE, TWO, "new"]
    assert choice.left_out == {THREE: "1 missing of 2 releases"}
    assert choice.as_of == LATER // 1000 * 1000
    assert names(choose_custodians(policy_of(tmp_path, court, most_missing=1)))[2] == THREE


def test_no_more_are_left_out_than_leave_one_above_the_threshold(tmp_path, court):
    absent(court, ONE)
    choice = choose_custodians(policy_of(tmp_path, court, threshold=2))
    assert len(choice.kept) == 3
    assert len(choice.left_out) == len(choice.spared) == 1
    few = choose_custodians(policy_of(tmp_path, court, at_least=1))
    assert names(few) == [ONE, "new"]


def test_late_releases_count_if_the_policy_says_so(tmp_path, court):
    receipt, request = court.put(ONE, TWO)
    court.book.seal(at=LATER)
    court.book.release(request, receipt, THREE)
    assert choose_custodians(policy_of(tmp_path, court)).left_out == {}
    assert set(choose_custodians(policy_of(tmp_path, court, most_late=0)).left_out) == {THREE}


def test_what_no_seal_counts_leaves_nobody_out(tmp_path, court):
    court.put(ONE, TWO)
    assert choose_custodians(policy_of(tmp_path, court)).left_out == {}


def without_a_release(data):
    """What a server shows that wants a custodian left out."""
    lines = data["lines"]
    data["lines"] = [line for line in lines if line["index"] != hidden_index(data)]


def hidden_index(data):
    found = [
        line["index"] for line in data["lines"]
        if THREE.encode() in base64.b64decode(line["statement"])
    ]  # fmt: skip
    return found[-1]


def forged_path(data):
    data["lines"][0]["path"] = data["lines"][1]["path"]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"edit": without_a_release}, "seal"),
        ({"edit": forged_path}, "index 0"),
        ({"tenant": "bolt"}, "acme"),
        ({"edit": lambda data: data.update(format="other")}, "document"),
        ({"edit": lambda data: data.update(checkpoint="junk")}, "cannot be used"),
    ],
)
def test_a_record_that_is_not_proved_or_not_ones_own_is_refused(tmp_path, court, how, told):
    court.put(ONE, TWO, THREE)
    court.book.seal(at=LATER)
    with pytest.raises(CounterfoilError, match=told) as refused:
        choose_custodians(policy_of(tmp_path, court, **how))
    assert refused.value.code is Code.CONFIGURATION
    assert "audit disclosures" in refused.value.remedy


def test_a_record_that_is_not_there_is_refused(tmp_path, court):
    policy = policy_of(tmp_path, court)
    policy.custodian_standing.record.unlink()
    with pytest.raises(CounterfoilError) as refused:
        choose_custodians(policy)
    assert refused.value.code is Code.CONFIGURATION
