"""Attesters: a plug-in's evidence is in the node's key bundles, and none goes out without it."""

import pytest

from execution_layer.node import attesters
from execution_layer.node.attesters import DEVELOPMENT, MOST_BYTES, attest_of
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import open_as
from shared.statements.keys import KeyBundle
from shared.verification.attestation import report_data

PLUGIN = "double-for-tests"


@pytest.fixture
def plugin(monkeypatch):
    """A plug-in that notes what it is asked for, and answers with what the test says."""
    asked, answers = [], [b"evidence"]

    def attester(*what):
        asked.append(what)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    monkeypatch.setattr(attesters, "installed", lambda: {PLUGIN: lambda: attester})
    return asked, answers


async def test_a_nodes_key_bundles_carry_the_evidence_of_its_plug_in(world, plugin):
    asked, _ = plugin
    async with world.node(attestation=PLUGIN) as node:
        statement = node.ring.current().statement
        bundle, _ = open_as(KeyBundle, statement, None)
    assert (bundle.attestation.format, bundle.attestation.evidence) == (PLUGIN, b"evidence")
    assert asked[-1] == (report_data(bundle), bundle.not_before, bundle.not_after)


@pytest.mark.parametrize("wrong", [b"", "text", None, bytes(MOST_BYTES + 1), OSError("no device")])
async def test_without_evidence_there_is_no_key_bundle(world, plugin, wrong):
    plugin[1][0] = wrong
    with pytest.raises(CounterfoilError, match=PLUGIN) as caught:
        async with world.node(attestation=PLUGIN):
            pass
    assert caught.value.code is Code.UNAVAILABLE


def test_a_plug_in_that_is_not_installed_is_named_with_those_that_are(plugin):
    with pytest.raises(CounterfoilError, match="no attester sev-snp") as caught:
        attest_of("sev-snp")
    assert caught.value.code is Code.CONFIGURATION
    assert DEVELOPMENT in (caught.value.remedy or "")
    assert PLUGIN in (caught.value.remedy or "")


def test_no_setting_means_no_attester():
    assert attest_of(None) is None
