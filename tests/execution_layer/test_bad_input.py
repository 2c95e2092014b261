"""Bad input and failures of whole processes: a clear error, the catalogue's exit code, and nothing lost.

What can be wrong with one request is in `node/test_admission.py` (at the node), `client/test_client.py` and
`client/test_cli.py` (before and after it is sent); files of prompts are in `client/test_prompts.py`, kills of
nodes and clients in `node/test_crashes.py` and `client/test_archive.py`.
"""

import json
import socket

import pytest
import torch

from execution_layer.client import directory
from execution_layer.commands.node import node as node_group
from execution_layer.node import delivery
from shared.model.root import model_root
from shared.runtime.cli import run
from shared.runtime.tls import LocalCA
from shared.statements.receipts import Receipt
from tests.execution_layer.fakes import FakeAudit, FakeWire
from tests.execution_layer.waiting import until
from tests.execution_layer.world import World
from tests.shared.model import tiny


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory):
    """A model folder that no test may change, and its root."""
    folder = tiny.write_folder(tmp_path_factory.mktemp("model"))
    return folder, model_root(folder)


@pytest.fixture
def quiet_world(tmp_path):
    """Operators and tenants; no audit server answers."""
    return World(tmp_path, FakeAudit(), LocalCA.load_or_create(tmp_path / "ca"), "127.0.0.1:1")


def copy_of(model, folder):
    """Return a copy of a model folder that may be spoiled."""
    folder.mkdir()
    for path in model[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def serve(settings, capsys):
    """Run `counterfoil node serve`; return (exit code, what it said), without a traceback."""
    code = run(node_group, ["serve", "--config", str(settings.spool.parent / "node.toml")])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert shown.err.startswith("Error: ")
    return code, shown.err


@pytest.mark.parametrize(
    ("line", "wrong", "told"),
    [
        ("threads = 1", "thread = 1", ("thread", "threads")),
        ("[quotas]", "[quota]", ("quota", "quotas")),
        ("in_flight = 64", "in_fligth = 64", ("quotas.in_fligth", "in_flight")),
        ("max_batch = 16", 'max_batch = "many"', ("max_batch",)),
        ("max_batch = 16", "max_batch = 0", ("max_batch",)),
        ("threads = 1", "threads = = 1", ("is not TOML",)),
    ],
)
def test_an_unknown_configuration_key_of_node_toml_is_named(quiet_world, capsys, line, wrong, told):
    settings = quiet_world.settings()
    config = settings.spool.parent / "node.toml"
    text = config.read_text()
    assert text.count(line) == 1
    config.write_text(text.replace(line, wrong))
    code, said = serve(settings, capsys)
    assert code == 2
    assert str(config) in said
    for words in told:
        assert words in said


def test_invalid_utf8_in_node_toml_is_reported(quiet_world, capsys):
    settings = quiet_world.settings()
    config = settings.spool.parent / "node.toml"
    config.write_bytes(config.read_bytes() + b"# caf\xe9\n")
    code, said = serve(settings, capsys)
    assert code == 2
    assert f"{config} is not TOML: it is not UTF-8" in said


def test_an_unknown_configuration_key_of_the_tenants_file_is_named(
    quiet_world, whole_model, capsys
):
    settings = quiet_world.settings(model=whole_model)
    quiet_world.tenants_file.write_text("[tennants]\n")
    code, said = serve(settings, capsys)
    assert code == 2
    assert str(quiet_world.tenants_file) in said
    assert "tennants" in said


def test_a_port_in_use_is_named_and_nothing_is_changed(quiet_world, whole_model, capsys):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        settings = quiet_world.settings(model=whole_model, address=address)
        code, said = serve(settings, capsys)
    assert code == 2
    assert f"the address {address} is in use" in said
    assert "choose another port" in said
    assert not list(
        settings.keys.glob("*.bundle")
    )  # no key bundle names an address that is not ours


def shortened(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


def garbled(path):
    path.write_bytes(b"\xff\xfe" * 100)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "harm", "code"),
    [
        ("model.safetensors", shortened, 3),
        ("model.safetensors", emptied, 3),
        ("model.safetensors", garbled, 3),
        ("model.safetensors", removed, 2),
        ("model.safetensors", a_folder, 2),
        ("config.json", removed, 2),
        ("config.json", shortened, 3),
        ("config.json", garbled, 3),
        ("tokenizer.json", removed, 2),
        ("tokenizer.json", shortened, 3),
        ("tokenizer.json", garbled, 3),
        ("tokenizer_config.json", shortened, 3),
        ("tokenizer_config.json", garbled, 3),
    ],
)
def test_a_corrupt_model_folder_is_not_served_and_the_file_is_named(
    quiet_world, whole_model, tmp_path, capsys, name, harm, code
):
    folder = copy_of(whole_model, tmp_path / "spoiled")
    harm(folder / name)
    settings = quiet_world.settings(model=(folder, whole_model[1]))
    found, said = serve(settings, capsys)
    assert str(folder / name) in said
    assert found == code


def test_a_model_folder_that_is_not_there_is_named(quiet_world, whole_model, tmp_path, capsys):
    settings = quiet_world.settings(model=(tmp_path / "nowhere", whole_model[1]))
    code, said = serve(settings, capsys)
    assert code == 2
    assert str(tmp_path / "nowhere") in said


def test_a_checkpoint_without_one_of_its_tensors_is_refused_by_the_tensors_name(
    quiet_world, whole_model, tmp_path, capsys
):
    folder = copy_of(whole_model, tmp_path / "spoiled")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    code, said = serve(quiet_world.settings(model=(folder, whole_model[1])), capsys)
    assert code == 3
    assert "has no tensor model.layers.2." in said


def test_no_rate_card_is_signed_for_a_corrupt_model_folder(
    quiet_world, whole_model, tmp_path, capsys
):
    folder = copy_of(whole_model, tmp_path / "spoiled")
    shortened(folder / "model.safetensors")
    quiet_world.operator()
    out = tmp_path / "new.card"
    prices = ("--price-input", "1", "--price-output", "2", "--currency", "EUR")
    where = ("--operator-folder", str(tmp_path / "honest"), "--model", str(folder))
    assert run(node_group, ["rate-card", *where, *prices, "--out", str(out)]) == 3
    assert str(folder / "model.safetensors") in capsys.readouterr().err
    assert not out.exists()


async def test_audit_server_away_while_nodes_keep_serving_and_the_spool_delivers_once_afterwards(
    world, monkeypatch
):
    """The server is stopped, its connections break, nobody answers at its address; then it is back."""
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(
        directory, "FRESH_S", 0.0
    )  # as if each request came long after the one before
    async with FakeWire() as wire:
        wire.join(world.audit_server.address)
        world.audit_target = wire.address
        async with world.node() as node, world.client() as client:
            before = await client.generate(prompt="before", max_tokens=3)
            await until(lambda: node.spool.counts().delivered == 1)

            wire.cut()
            await world.stop_audit()
            during = [await client.generate(prompt="during", max_tokens=3) for _ in range(5)]
            assert node.spool.counts().pending == 5
            assert (await client.upgrade_proofs()).missing == 6
            assert len(world.audit.receipts()) == 1

            world.audit.loses_answers = 2  # the first acknowledgements do not arrive
            await world.start_audit()
            wire.join(world.audit_server.address)
            await until(lambda: node.spool.counts().delivered == 6, 30)

            answers = [before, *during]
            logged = [Receipt.from_payload(item.payload) for item in world.audit.receipts()]
            assert logged == [answer.receipt.value for answer in answers]
            assert world.audit.submissions > len(world.audit.statements)  # some came again
            assert (await client.upgrade_proofs(10)).missing == 0
            assert (await client.generate(prompt="after", max_tokens=3)).text


async def test_a_node_that_starts_while_the_audit_server_is_away_registers_when_it_is_back(world):
    async with FakeWire() as wire:
        world.audit_target = wire.address
        async with world.node(wait=False) as node:
            assert not node.registration.witnessed.is_set()
            wire.join(world.audit_server.address)
            await until(node.registration.witnessed.is_set, 20)
            async with world.client() as client:
                assert (await client.generate(prompt="hello", max_tokens=3)).text
