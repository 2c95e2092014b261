"""`client.toml`: what a client trusts is complete, agrees with itself, and says which line is wrong."""

import stat

import pytest

from execution_layer.client.policy import ClientPolicy
from execution_layer.client.setup import CONFIG, write_client
from execution_layer.commands.client import client as client_group
from execution_layer.commands.client import infer
from shared.envelope.hpke import generate_hpke_key
from shared.runtime.cli import run
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.notes import SignatureType, Signer

LOG = Signer.generate("log.test/fake", SignatureType.ED25519).verifier.vkey()
WITNESS = Signer.generate("w.test/one", SignatureType.COSIGNATURE_ED25519).verifier.vkey()
CUSTODIAN = generate_hpke_key().public_bytes.hex()
CARD = "ab" * 32


def facts(folder, **changes):
    return {
        "audit_target": "127.0.0.1:1",
        "ca_file": folder / "ca.pem",
        "model_root": "cd" * 32,
        "operators": {"honest": "ef" * 32},
        "rate_cards": {"honest": (CARD,)},
        "custodians": [{"name": "c1", "hpke_key": CUSTODIAN}],
        "threshold": 1,
        "log_keys": [LOG],
        "witnesses": [WITNESS],
        "quorum": 1,
        **changes,
    }


def problem(call, *arguments):
    with pytest.raises(CounterfoilError) as caught:
        call(*arguments)
    assert caught.value.code is Code.CONFIGURATION
    return caught.value.detail


def test_what_init_writes_is_read_back_and_private(tmp_path):
    made = write_client(tmp_path / "c", "acme", facts(tmp_path))
    policy = ClientPolicy.load(made["config"])
    assert policy.tenant == "acme"
    assert policy.rate_card("honest").hex() == CARD
    assert [key.hex() for key in policy.operator_keys("honest")] == ["ef" * 32]
    assert policy.operator_keys("stranger") == ()
    assert policy.custodians[0].public_key().hex() == CUSTODIAN
    assert policy.log.policy().threshold == 1
    for name in (CONFIG, "tenant.pem"):
        assert stat.S_IMODE((tmp_path / "c" / name).stat().st_mode) == 0o600


def test_init_again_keeps_the_tenants_key(tmp_path):
    first = write_client(tmp_path / "c", "acme", facts(tmp_path))
    again = write_client(tmp_path / "c", "acme", facts(tmp_path, audit_target="127.0.0.1:2"))
    assert again == first
    assert ClientPolicy.load(first["config"]).audit_target == "127.0.0.1:2"


def test_an_unknown_configuration_key_in_client_toml_is_named_with_the_nearest(tmp_path, capsys):
    config = write_client(tmp_path / "c", "acme", facts(tmp_path))["config"]
    text = config.read_text()
    config.write_text(text.replace("timeout_s =", "timeout =", 1))
    assert run(infer, ["--config", str(config), "hello"]) == 2
    shown = capsys.readouterr().err
    assert str(config) in shown
    assert "timeout" in shown
    assert "timeout_s" in shown
    assert "Traceback" not in shown
    config.write_text(text.replace("[log]", "[log]\nquorums = 2", 1))
    assert "log.quorums" in problem(ClientPolicy.load, config)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"threshold": 2}, "threshold of 2"),
        ({"threshold": 0}, "threshold"),
        ({"custodians": []}, "custodians"),
        ({"custodians": [{"name": "c1"}]}, "hpke_key"),
        ({"custodians": [{"name": "c1", "hpke_key": "00" * 32}]}, "custodian c1"),
        ({"custodians": [{"name": "c1", "hpke_key_file": "/nowhere/c1.hex"}]}, "custodian c1"),
        ({"operators": {"honest": "EF" * 32}}, "operators"),
        ({"operators": {"not a name": "ef" * 32}}, "operators"),
        ({"rate_cards": {"honest": ("short",)}}, "rate_cards"),
        ({"model_root": "cd"}, "model_root"),
        ({"quorum": 0}, "quorum"),
        ({"quorum": 2}, "quorum of 2"),
        ({"witnesses": []}, "quorum of 1"),
        ({"log_keys": []}, "no log key"),
        ({"witnesses": [LOG]}, "twice"),
    ],
)
def test_a_policy_that_cannot_hold_is_refused_with_its_reason(tmp_path, changes, told):
    assert told in problem(write_client, tmp_path / "c", "acme", facts(tmp_path, **changes))
    assert not (tmp_path / "c" / CONFIG).exists()


def test_a_witness_key_that_is_not_valid_is_malformed(tmp_path):
    with pytest.raises(CounterfoilError) as caught:
        write_client(tmp_path / "c", "acme", facts(tmp_path, witnesses=["junk"]))
    assert caught.value.code is Code.MALFORMED


def test_an_operator_without_an_accepted_rate_card_is_named(tmp_path):
    config = write_client(tmp_path / "c", "acme", facts(tmp_path, rate_cards={}))["config"]
    assert "operator honest" in problem(ClientPolicy.load(config).rate_card, "honest")


def test_facts_from_a_file_may_hold_public_facts_only(tmp_path, capsys):
    file = tmp_path / "facts.json"
    for text in ('{"tenant_key_file": "x"}', "[]", "{", "\ud800".encode("utf-8", "surrogatepass")):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        arguments = ["init", "--folder", str(tmp_path / "c"), "--tenant", "acme"]
        assert run(client_group, [*arguments, "--facts", str(file)]) == 2
        assert str(file) in capsys.readouterr().err
    assert run(client_group, [*arguments, "--operator", "no-equals-sign"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_a_key_that_others_can_read_is_refused(tmp_path, capsys):
    config = write_client(tmp_path / "c", "acme", facts(tmp_path))["config"]
    (tmp_path / "c" / "tenant.pem").chmod(0o644)
    assert run(infer, ["--config", str(config), "hello"]) == 2
    assert "open to other users" in capsys.readouterr().err
