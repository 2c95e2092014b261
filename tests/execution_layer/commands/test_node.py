"""`counterfoil node`: set-up that can be repeated, and errors that say what to do."""

import json
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from execution_layer.commands.node import node as node_group
from execution_layer.node.settings import NodeSettings, TenantsFile
from execution_layer.node.tenants import Tenants
from shared.runtime.cli import run
from shared.runtime.config import load
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import key_id, load_or_create_ed25519, public_bytes
from shared.runtime.tls import LIFE, LocalCA
from tests.execution_layer.fakes import ORIGIN, FakeAudit
from tests.execution_layer.world import MODEL_ROOT
from tests.shared.model import tiny


@pytest.fixture
def shell(capsys):
    """Run a command; return (exit code, what it printed as JSON or None, standard error)."""

    def call(*words):
        code = run(node_group, [str(word) for word in words])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, json.loads(shown.out) if shown.out.startswith(("{", "[")) else None, shown.err

    return call


def prepared(shell, tmp_path):
    """Make operator and rate card; return the arguments of `init`."""
    operator = tmp_path / "operator"
    assert shell("operator-init", "--folder", operator, "--operator", "honest", "--json")[0] == 0
    prices = ("--price-input", "0.30", "--price-output", "0.60", "--currency", "EUR")
    card = ("--model-root", MODEL_ROOT.hex(), *prices, "--out", tmp_path / "card.cose", "--json")
    assert shell("rate-card", "--operator-folder", operator, *card)[0] == 0
    return init_arguments(tmp_path)


def init_arguments(tmp_path):
    """Return the arguments of `init`, given operator and rate card."""
    return (
        *("init", "--folder", tmp_path / "node", "--operator-folder", tmp_path / "operator"),
        *("--name", "n1", "--model", tmp_path / "model", "--rate-card", tmp_path / "card.cose"),
        *("--audit-target", "127.0.0.1:1", "--local-ca", tmp_path / "ca", "--json"),
        *("--trust", trust(tmp_path)),
    )


def trust(tmp_path, **changes):
    """Write whom the node trusts in audits; return the file."""
    audit = FakeAudit()
    values = {
        "log": {"origin": ORIGIN, "vkeys": audit.log_keys, "witnesses": audit.witnesses},
        "authority": "ab" * 32,
        "workers": [{"name": "w", "signing_key": "cd" * 32, "hpke_key": "ef" * 1216}],
        **changes,
    }
    path = tmp_path / "trust.json"
    path.write_text(json.dumps(values))
    return path


def test_set_up_can_be_repeated_and_keeps_the_keys(shell, tmp_path):
    arguments = prepared(shell, tmp_path)
    code, first, _ = shell(*arguments)
    assert code == 0
    assert first["issuer"] == "honest/n1"
    settings = load(NodeSettings, tmp_path / "node" / "node.toml")
    assert settings.quotas.max_output_tokens == 4096
    code, again, _ = shell(*arguments, "--max-output-tokens", 99)
    assert (code, again) == (0, first)
    settings = load(NodeSettings, tmp_path / "node" / "node.toml")
    assert settings.quotas.max_output_tokens == 99
    again = shell(
        "operator-init", "--folder", tmp_path / "operator", "--operator", "honest", "--json"
    )
    assert again[1]["operator_key"] == first["operator_key"]


def test_what_init_writes_holds_wherever_the_node_is_started(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [
        str(Path(word).relative_to(tmp_path)) if str(word).startswith(str(tmp_path)) else word
        for word in prepared(shell, tmp_path)
    ]
    assert shell(*arguments)[0] == 0
    written = tomllib.loads((tmp_path / "node" / "node.toml").read_text("utf-8"))
    places = [*written["tls"].values(), written["audit"]["ca_file"], written["model"]]
    assert [place for place in places if not Path(place).is_absolute()] == []
    assert Path(written["tls"]["ca"]) == tmp_path / "ca" / "ca.pem"


def test_a_node_with_layers_is_a_stage_for_its_callers(shell, tmp_path):
    arguments = prepared(shell, tmp_path)
    callers = ("--caller", "front/head", "--caller", "farm/s1")
    assert shell(*arguments, "--layers", "8:16", *callers, "--region", "eu-north")[0] == 0
    settings = load(NodeSettings, tmp_path / "node" / "node.toml")
    assert (settings.stage.layers, settings.region) == ("8:16", "eu-north")
    assert settings.stage.callers == ("front/head", "farm/s1")
    assert settings.stage.next_ca == settings.tls.ca
    code, facts, _ = shell("status", "--config", tmp_path / "node" / "node.toml", "--json")
    assert (code, facts["layers"], "max_model_len" in facts) == (0, "8:16", False)
    for wrong in (
        ("--layers", "8:16"),
        callers,
        ("--layers", "16:8", *callers),
        ("--layers", "8:16", "--caller", "front"),
        ("--layers", "8:16", *callers, "--device", "cuda"),
        ("--layers", "8:16", *callers, "--stage", "farm/s2@10.0.0.2:7100=16:24"),
    ):
        code, _, said = shell(*arguments, *wrong)
        assert code != 0
        assert "a stage needs layers" in said or "the options cannot be used" in said


@pytest.mark.parametrize(
    ("age", "said"), [(timedelta(0), "valid until 2"), (LIFE + timedelta(days=1), "expired on 2")]
)
def test_status_tells_the_certificate_s_end(shell, tmp_path, age, said):
    assert shell(*prepared(shell, tmp_path))[0] == 0
    then = datetime.now(UTC) - age
    LocalCA.load_or_create(tmp_path / "ca").issue("n1", folder=tmp_path / "node", now=then)
    code, facts, _ = shell("status", "--config", tmp_path / "node" / "node.toml", "--json")
    assert code == 0
    assert facts["certificate"].startswith(said)


def test_the_folder_of_another_operator_is_not_taken_over(shell, tmp_path):
    prepared(shell, tmp_path)
    code, _, said = shell("operator-init", "--folder", tmp_path / "operator", "--operator", "shady")
    assert code == 6
    assert "belongs to operator honest" in said


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--name", "not a name"), "node"),
        (("--threads", "0"), "--threads"),
        (("--in-flight-per-tenant", "0"), "--in-flight-per-tenant"),
    ],
)
def test_options_that_cannot_be_used_are_named(shell, tmp_path, more, told):
    code, _, said = shell(*prepared(shell, tmp_path), *more)
    assert code == 2
    assert told in said


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"authority": "xyz"}, "authority_keys"),
        ({"workers": []}, "workers"),
        ({"log": {"origin": ORIGIN}}, "vkeys"),
        ({"limits": {}}, "log, authority and workers"),
    ],
)
def test_a_node_of_which_nothing_could_be_judged_is_not_set_up(shell, tmp_path, changes, told):
    arguments = prepared(shell, tmp_path)
    trust(tmp_path, **changes)
    code, _, said = shell(*arguments)
    assert code == 2
    assert told in said
    assert not (tmp_path / "node" / "node.toml").exists()


def test_a_node_needs_a_certificate_and_says_how_to_get_one(shell, tmp_path):
    arguments = list(prepared(shell, tmp_path))
    place = arguments.index("--local-ca")
    code, _, said = shell(*arguments[:place], *arguments[place + 2 :])
    assert code == 2
    assert "--local-ca FOLDER" in said


def test_a_rate_card_is_for_one_model_in_a_known_currency(shell, tmp_path):
    operator = ("--operator-folder", tmp_path / "operator")
    prepared(shell, tmp_path)
    rest = ("--price-input", "1", "--price-output", "2", "--out", tmp_path / "x.cose")
    root = ("--model-root", MODEL_ROOT.hex())
    assert shell("rate-card", *operator, *rest, "--currency", "EUR")[0] == 2
    code, _, said = shell("rate-card", *operator, *rest, *root, "--currency", "Euro")
    assert code == 2
    assert "Euro" in said
    assert shell("rate-card", *operator, *rest, "--currency", "EUR", "--model-root", "12")[0] == 2
    wrong = ("--price-input", "cheap", *rest[2:])
    assert shell("rate-card", *operator, *wrong, *root, "--currency", "EUR")[0] == 2
    assert not (tmp_path / "x.cose").exists()


def test_tenants_are_added_by_their_public_key(shell, tmp_path):
    shell(*prepared(shell, tmp_path))
    config = ("--config", tmp_path / "node" / "node.toml")
    key = public_bytes(load_or_create_ed25519(tmp_path / "tenant.pem")).hex()
    code, told, _ = shell("add-tenant", *config, "--tenant", "acme", "--key", key, "--json")
    assert (code, told["tenants"]) == (0, 1)
    assert load(TenantsFile, tmp_path / "node" / "tenants.toml").tenants == {"acme": key}
    for tenant, wrong, code in (
        ("acme", "xyz", 2),
        ("not a name", key, 2),
        ("small", "00" * 32, 3),  # a point of small order is not a key
    ):
        assert shell("add-tenant", *config, "--tenant", tenant, "--key", wrong)[0] == code
    assert load(TenantsFile, tmp_path / "node" / "tenants.toml").tenants == {"acme": key}


def test_a_broken_change_to_the_tenants_is_logged_and_the_last_good_ones_are_kept(tmp_path, caplog):
    path = tmp_path / "tenants.toml"
    key = public_bytes(load_or_create_ed25519(tmp_path / "tenant.pem"))
    path.write_text(f'[tenants]\nacme = "{key.hex()}"\n')
    tenants = Tenants(path)
    path.write_text("[tenants]\nacme = 5\n")
    assert tenants.key_of("acme", key_id(key)) == key
    assert "the changed tenants file cannot be used" in caplog.text
    path.unlink()
    assert tenants.key_of("acme", key_id(key)) == key
    path.write_text("[tenants]\n")
    assert tenants.key_of("acme", key_id(key)) is None
    path.write_text("nonsense")
    with pytest.raises(CounterfoilError) as caught:
        Tenants(path)
    assert caught.value.code is Code.CONFIGURATION


def test_a_node_that_does_not_run_is_told_so(shell, tmp_path):
    shell(*prepared(shell, tmp_path))
    config = ("--config", tmp_path / "node" / "node.toml")
    code, told, _ = shell("status", *config, "--json")
    assert code == 0
    assert (told["running"], told["pid"]) == (False, None)
    assert told["max_model_len"] is None  # the model is not there
    code, _, said = shell("drain", *config)
    assert code == 4
    assert "is not running" in said


@pytest.mark.parametrize(("options", "shown"), [((), 256), (("--max-model-len", 100), 100)])
def test_the_longest_sequence_is_a_setting_and_shown(shell, tmp_path, options, shown):
    shell(*prepared(shell, tmp_path), *options)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(tiny.config_json()))
    code, told, _ = shell("status", "--config", tmp_path / "node" / "node.toml", "--json")
    assert (code, told["max_model_len"]) == (0, shown)


def test_a_configuration_that_is_not_there_is_reported_with_the_command_that_makes_one(
    shell, tmp_path
):
    for name in ("serve", "status", "drain"):
        code, _, said = shell(name, "--config", tmp_path / "nowhere.toml")
        assert code == 2
        assert "nowhere.toml cannot be read" in said
        assert "init" in said


@pytest.mark.parametrize("name", ["keys/signing.pem", "../operator/operator.pem"])
def test_a_private_key_that_others_can_read_is_refused(shell, tmp_path, name):
    shell(*prepared(shell, tmp_path))
    (tmp_path / "node" / name).chmod(0o644)
    code, _, said = shell(*init_arguments(tmp_path))
    assert code == 2
    assert "is open to other users" in said
