"""A custodian whose HPKE key a plug-in holds: the same releases, and nobody is blamed while the plug-in is away."""

import pytest

from shared.envelope.hpke import HeldOpener
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.held_keys import Held, Reference
from shared.runtime.keys import Algorithm
from shared.statements.cose import entry_of
from tests.audit_layer.custodian import custody
from tests.shared.runtime.key_holder import KIND, DoubleOfAHolder
from tests.shared.selection.world import World

GOOD = World()


def test_a_share_is_released_by_a_key_that_never_leaves_its_holder(tmp_path):
    """Attack by accident: a device that is away looks like a wrap that does not open, for which its client would be blamed."""
    holder = DoubleOfAHolder()
    holder.keys["share"] = custody.KEY
    reference = Reference(KIND, "share", Algorithm.HPKE.value, custody.KEY.public_bytes)
    key = HeldOpener(Held(KIND, holder, reference))
    with custody.custodian(tmp_path, hpke=key) as custodian:
        holder.failing = ConnectionError("the device is gone")
        with pytest.raises(CounterfoilError) as caught:
            custody.release(custodian, GOOD)
        assert caught.value.code is Code.UNAVAILABLE
        assert custodian.store.find_report(entry_of(GOOD.request)) is None
        holder.failing = None
        assert custody.share(custodian, GOOD, custody.release(custodian, GOOD))
    spoiled = HeldOpener(Held(KIND, holder, reference))
    with custody.custodian(tmp_path / "other", hpke=spoiled) as custodian:
        holder.keys["share"] = type(custody.KEY).from_seed(bytes(32))  # it opens no such wrap
        answer = custody.case_answer(custodian, GOOD)
        assert answer.report is not None
