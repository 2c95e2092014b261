"""A beacon party: always the same commitment, one reveal per epoch, and only for what is witnessed."""

from dataclasses import replace

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.selection import beacon
from shared.selection.party import BeaconParty, Revealed
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cose import entry_of, open_as
from tests.shared.selection.world import AUTHORITY, LOG_POLICY, PARTIES, World
from tests.vectors.samples import ORIGIN, octets, signing_key

PARTY = PARTIES[1]
PUBLIC = public_bytes(PARTY.key)
GOOD = World()


def reveal(world=GOOD, party=PARTY, revealed=(), number=3, **changes):
    shown = {
        "opened": world.open,
        "open_proof": world.proof(world.open),
        "seal": world.seal,
        "seal_proof": world.proof(world.seal),
    }
    return party.reveal(
        number,
        **{**shown, **changes},
        log=LOG_POLICY,
        authority=public_bytes(AUTHORITY),
        revealed=revealed,
    )


def refused(expected, *arguments, **options):
    with pytest.raises(CounterfoilError) as caught:
        reveal(*arguments, **options)
    assert caught.value.code is expected, caught.value


def test_a_reveal_opens_the_partys_own_commitment_under_the_seal_shown():
    commitment, _ = open_as(BeaconCommitment, PARTY.commit(3), PUBLIC)
    raw, remembered = reveal()
    value, _ = open_as(BeaconReveal, raw, PUBLIC)
    assert beacon.commitment(PARTY.name, ORIGIN, 3, value.reveal) == commitment.commitment
    assert value.seal == entry_of(GOOD.seal) == remembered.seal
    assert (remembered.epoch, remembered.size) == (3, GOOD.seal_value.size)


def test_asking_again_gives_the_same_bytes():
    raw, remembered = reveal()
    assert reveal(revealed=[remembered]) == (raw, remembered)
    assert PARTY.commit(3) == PARTY.commit(3)


def test_commitments_differ_by_epoch_log_party_and_secret_and_do_not_tell_the_reveal():
    others = [
        PARTY.commit(4),
        BeaconParty(PARTY.name, "other/log", PARTY.secret, PARTY.key).commit(3),
        BeaconParty("custodian-2", ORIGIN, PARTY.secret, PARTY.key).commit(3),
        BeaconParty(PARTY.name, ORIGIN, octets("other"), PARTY.key).commit(3),
    ]
    values = {
        open_as(BeaconCommitment, raw, None)[0].commitment for raw in [*others, PARTY.commit(3)]
    }
    assert len(values) == 5
    assert beacon.reveal(PARTY.secret, ORIGIN, 3) not in values


def test_nothing_is_revealed_before_the_seal_is_witnessed():
    refused(Code.NOT_WITNESSED, seal_proof=GOOD.proof(GOOD.seal, witnesses=()))
    refused(Code.NOT_WITNESSED, open_proof=GOOD.proof(GOOD.open, witnesses=()))
    refused(Code.BAD_PROOF, seal_proof=GOOD.proof(GOOD.open))


def test_only_the_authoritys_statements_count():
    stranger = signing_key("stranger")
    refused(Code.UNTRUSTED_KEY, World(signer={"seal": stranger}))
    refused(Code.UNTRUSTED_KEY, World(signer={"open": stranger}))


def test_a_party_that_is_not_named_does_not_reveal():
    outsider = BeaconParty("custodian-9", ORIGIN, octets("outsider"), signing_key("outsider"))
    refused(Code.BAD_PROOF, party=outsider)


def test_a_seal_that_does_not_follow_its_receipts_is_refused():
    refused(Code.BAD_PROOF, World(seal=lambda s: replace(s, size=s.size + 1)))
    refused(Code.BAD_PROOF, World(seal=lambda s: replace(s, first=0)))


def test_statements_of_another_epoch_than_the_one_asked_for_are_refused():
    """Otherwise the memory of the wrong neighbours would be consulted."""
    refused(Code.BAD_PROOF, number=1000)


def test_one_epoch_is_revealed_under_one_seal_only():
    _, remembered = reveal()
    second = World(seal=lambda s: replace(s, root=octets("root"), at=s.at + 1))
    refused(Code.FORK, second, revealed=[remembered])


def test_overlapping_epochs_are_refused_and_adjoining_ones_are_not():
    size, first = GOOD.seal_value.size, GOOD.seal_value.first
    for start, end in ((0, first + 1), (size - 1, size + 5), (first, size), (0, size + 5)):
        for epoch in (2, 4):
            refused(Code.FORK, revealed=[Revealed(epoch, octets("seal"), start, end)])
    neighbours = [Revealed(2, octets("a"), 0, first), Revealed(4, octets("b"), size, size + 5)]
    assert reveal(revealed=neighbours)[1].epoch == 3
    refused(Code.FORK, revealed=[Revealed(2, octets("a"), size, size + 5)])
    refused(Code.FORK, revealed=[Revealed(4, octets("b"), 0, first)])


def test_a_secret_has_32_bytes_and_is_not_shown():
    with pytest.raises(CounterfoilError) as caught:
        BeaconParty("p", ORIGIN, b"short", PARTY.key)
    assert caught.value.code is Code.CONFIGURATION
    assert PARTY.secret.hex() not in repr(PARTY)
    assert repr(PARTY.secret)[2:-1] not in repr(PARTY)
