"""What a custodian insists on, whatever the authority has signed and the log holds (protocol §6.2.1)."""

from dataclasses import replace

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import public_bytes
from shared.selection.party import Revealed
from shared.statements.cose import entry_of
from shared.statements.disclosures import DisclosureReason
from shared.verification.limits import InsistenceError, Limits, Released, Rule
from shared.verification.trust import Role
from tests.shared.selection.world import AUTHORITY, PARTIES, TERMS, TRUST, World, trusting
from tests.vectors.samples import octets, signing_key

D, F, W = DisclosureReason.DRAW, DisclosureReason.FLOOR, DisclosureReason.WHOLE


def revealed(world: World) -> Revealed:
    """What this custodian remembers after revealing under the world's seal."""
    return Revealed(3, entry_of(world.seal), world.seal_value.first, world.seal_value.size)


def insisted(world: World, **arguments) -> Rule:
    with pytest.raises(InsistenceError) as caught:
        world.check(**arguments)
    return caught.value.rule


# -- its own reveal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, 2])
def test_whole_is_not_a_licence_when_the_reveal_called_missing_was_made(missing):
    world = World(reason=W, missing=missing)
    assert insisted(world, revealed=revealed(world)) is Rule.OWN_REVEAL
    assert world.check().drawn_by is W


def test_a_whole_epoch_because_another_partys_reveal_is_missing_is_still_released():
    world = World(reason=W, parties=PARTIES[::-1], missing=1)
    assert world.check(revealed=revealed(world)).drawn_by is W


def test_an_epoch_opened_without_any_commitment_is_not_released():
    assert insisted(World(reason=W, no_parties=True)) is Rule.OWN_COMMITMENT


@pytest.mark.parametrize("options", [{}, {"reason": W, "missing": 1}])
def test_an_epoch_that_names_only_others_is_not_released_whole_or_not(options):
    world = World(parties=PARTIES[:1], **options)
    assert insisted(world) is Rule.OWN_COMMITMENT


def test_a_commitment_made_up_in_its_name_is_not_its_own():
    forged = World(commitment=lambda party: replace(party, key=signing_key("stranger")).commit(3))
    with pytest.raises(CounterfoilError) as caught:
        forged.check()
    assert caught.value.code is Code.UNTRUSTED_KEY


def test_a_second_seal_is_refused_by_its_rule():
    mine = replace(revealed(World()), seal=octets("first seal"))
    assert insisted(World(), revealed=mine) is Rule.SECOND_SEAL


# -- rate and floor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [D, W])
def test_a_rate_above_its_own_is_not_released_for_any_reason(reason):
    world = World(reason=reason, rate_ppm=500_001, missing=int(reason is W))
    assert insisted(world) is Rule.RATE
    generous = replace(TERMS, limits=Limits(max_rate_ppm=500_001))
    assert world.check(terms=generous).drawn_by is reason


def test_a_floor_above_its_own_is_not_released():
    world = World(reason=F, rate_ppm=0, floor=1_000_000)
    assert insisted(world) is Rule.FLOOR
    assert insisted(World(floor=3)) is Rule.FLOOR
    assert insisted(World(floor=1, strict_floor=3)) is Rule.FLOOR


def test_without_configuration_the_documented_limits_hold():
    assert Limits() == Limits(100_000, 10, 10_000, 5_000, 1_000, 5_000, 10_000, 1_000)


# -- a day -------------------------------------------------------------------------------------------

DAY = Limits(
    max_releases_per_day=5,
    max_floor_per_day=2,
    max_whole_per_day=1,
    max_tenant_per_day=3,
    max_authority_per_day=4,
)


def stopped(
    drawn_by: DisclosureReason, *, of_tenant: int = 0, of_authority: int = 0, **released: int
) -> Rule | None:
    counted = {DisclosureReason(name): count for name, count in released.items()}
    try:
        DAY.check_day(drawn_by, Released(counted, of_tenant, of_authority))
    except InsistenceError as error:
        return error.rule if error.code.value.retryable else None
    return None


def test_the_limit_of_a_day_counts_all_reasons():
    assert stopped(D, draw=4) is None
    assert stopped(D, draw=5) is Rule.RELEASES_A_DAY
    assert stopped(W, draw=4, floor=1) is Rule.RELEASES_A_DAY


def test_what_an_authority_can_inflate_leaves_room_for_draws_by_the_rate():
    assert stopped(F, floor=2) is Rule.FLOOR_A_DAY
    assert stopped(W, whole=1) is Rule.WHOLE_A_DAY
    assert stopped(D, floor=2, whole=1) is None
    assert stopped(F, whole=1) is None
    assert stopped(W, floor=2) is None


@pytest.mark.parametrize("drawn_by", [D, F, W])
def test_one_tenant_or_one_authority_uses_up_its_own_part_of_a_day_whatever_draws(drawn_by):
    assert stopped(drawn_by, of_tenant=2, of_authority=3) is None
    assert stopped(drawn_by, of_tenant=3) is Rule.TENANT_A_DAY
    assert stopped(drawn_by, of_authority=4) is Rule.AUTHORITY_A_DAY


@pytest.mark.parametrize(
    ("options", "drawn_by"),
    [({}, D), ({"rate_ppm": 0, "floor": 1}, F), ({"missing": 1}, W)],
)
def test_a_confirmation_counts_as_what_drew_the_receipt(options, drawn_by):
    assert World(reason=DisclosureReason.CONFIRM, **options).check().drawn_by is drawn_by


# -- whom it believes about order and key bundle -----------------------------------------------------


def test_an_order_that_a_pinned_tenant_did_not_sign_is_refused_where_tenants_are_pinned():
    world = World(signer={"order": AUTHORITY})
    known = TRUST.pins[Role.TENANT]
    for tenants in (known, {"bolt": known["acme"]}):
        with pytest.raises(CounterfoilError) as caught:
            world.check(trust=trusting(Role.TENANT, tenants))
        assert caught.value.code is Code.UNTRUSTED_KEY
    assert world.check(trust=trusting(Role.TENANT, None)).epoch == 3


def test_a_key_bundle_that_a_pinned_operator_did_not_sign_is_refused_where_operators_are_pinned():
    stranger = public_bytes(signing_key("stranger"))
    known = TRUST.pins[Role.OPERATOR]["gpu-farm"]
    for operators in ({"gpu-farm": (stranger,)}, {"other-farm": known}):
        with pytest.raises(CounterfoilError) as caught:
            World().check(trust=trusting(Role.OPERATOR, operators))
        assert caught.value.code is Code.UNTRUSTED_KEY
    assert World().check(trust=trusting(Role.OPERATOR, None)).epoch == 3
