import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_layer.costs.charge import ChargeKind
from audit_layer.costs.exports.formats import Format
from audit_layer.costs.exports.from_charges import DATASETS, write_charges
from audit_layer.costs.exports.manifest import verify
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.costs.exports.made import ABOUT, charge

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
FOUND = [charge(), charge(ChargeKind.FEE), charge(ChargeKind.INPUT, quantity=-5, correction=True)]


@pytest.mark.parametrize("chosen", [*DATASETS, Format.XLSX])
def test_every_format_of_charges_has_the_same_totals_and_the_same_bytes_each_time(tmp_path, chosen):
    path = tmp_path / f"a.{chosen.container}"
    first = write_charges(path, chosen, FOUND, ABOUT, KEY)
    assert verify(path, KEY.public_key()) == first
    assert first.totals == {"EUR": {"Purchase": "0.6", "Usage": "0.000717"}}
    assert (first.rows, first.format) == (3, chosen.value)
    assert write_charges(path, chosen, iter(FOUND), ABOUT, KEY) == first


@pytest.mark.parametrize("chosen", sorted(set(Format) - {*DATASETS, Format.XLSX}))
def test_a_format_that_is_not_of_charges_is_refused_with_those_that_are(tmp_path, chosen):
    with pytest.raises(CounterfoilError) as caught:
        write_charges(tmp_path / "a", chosen, FOUND, ABOUT)
    assert caught.value.code is Code.UNSUPPORTED
    assert "focus-1.4-csv" in (caught.value.remedy or "")
    assert list(tmp_path.iterdir()) == []
