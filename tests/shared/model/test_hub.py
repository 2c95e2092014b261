"""Fetching from a hub: one commit, only a model's files, and nothing that is not what the hub lists."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from shared.model import hub as hub_module
from shared.model.cli import model as command
from shared.model.hub import resolve
from shared.model.part_file import PART
from shared.model.root import model_root
from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import LARGEST
from tests.shared.model import tiny
from tests.shared.model.hub_server import COMMIT, REPOSITORY, Hub, serving

INDEX = "model.safetensors.index.json"
NAME = f"hf:{REPOSITORY}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "made", hidden_size=32, intermediate_size=32, head_dim=32)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    extra = {"README.md": b"A card.", "pytorch_model.bin": b"pickle", "../evil.json": b"{}"}
    extra |= {"consolidated.safetensors": b"more", "onnx/config.json": b"{}"}
    with serving(Hub({**files, **extra})) as made:
        yield made


def fetch(hub: Hub, into: Path, name: str = NAME, **options):
    return resolve(name, into=into, endpoint=hub.endpoint, **options)


def refused(code: Code, hub: Hub, into: Path, saying: str = "", name: str = NAME) -> None:
    with pytest.raises(CounterfoilError, match=saying or ".") as caught:
        fetch(hub, into, name)
    assert caught.value.code is code


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_model_arrives_whole_and_with_nothing_else(hub, folder, tmp_path):
    found = fetch(hub, tmp_path / "got")
    assert found.source == f"{NAME}@{COMMIT}"
    assert found.root == model_root(folder)
    assert visible(found.folder) == visible(folder)
    assert not (tmp_path / "evil.json").exists()


def test_a_second_time_no_file_is_sent(hub, tmp_path):
    first = fetch(hub, tmp_path / "got")
    hub.requests.clear()
    assert fetch(hub, tmp_path / "got") == first
    assert not any("/resolve/" in request or "/cdn/" in request for request in hub.requests)


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_revision_is_pinned_to_its_commit(hub, tmp_path, revision):
    found = fetch(hub, tmp_path / "got", f"{NAME}@{revision}")
    assert found.source == f"{NAME}@{COMMIT}"
    asked = [request for request in hub.requests if "/resolve/" in request]
    assert asked
    assert all(COMMIT in request for request in asked)


def shard(hub: Hub, folder: Path, **changes: str) -> None:
    tensors = {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}
    del hub.files["model.safetensors"]
    names = sorted(tensors)
    where = {name: f"model-0000{at % 2 + 1}.safetensors" for at, name in enumerate(names)}
    for file in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == file}, folder / file)
        hub.files[file] = (folder / file).read_bytes()
    hub.files[INDEX] = json.dumps({"weight_map": where | changes}).encode()


def test_the_shards_in_the_index_of_a_sharded_model_are_fetched(hub, folder, tmp_path):
    root = model_root(folder)
    shard(hub, folder)
    found = fetch(hub, tmp_path / "got")
    assert found.root == root
    assert "consolidated.safetensors" not in visible(found.folder)


@pytest.mark.parametrize("name", ["../evil.json", "../../etc/x.safetensors", "/x.safetensors"])
def test_an_index_does_not_lead_out_of_the_folder(hub, folder, tmp_path, name):
    shard(hub, folder, **{"model.norm.weight": name})
    refused(Code.MALFORMED, hub, tmp_path / "got", "file in the same folder")


def test_a_shard_that_the_hub_lacks_is_named(hub, folder, tmp_path):
    shard(hub, folder)
    del hub.files["model-00002.safetensors"]
    refused(Code.NOT_FOUND, hub, tmp_path / "got", "model-00002")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_every_model_has_and_this_one_lacks_is_named(hub, tmp_path, name):
    del hub.files[name]
    refused(Code.NOT_FOUND, hub, tmp_path / "got", name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("change", ["other", "shorter", "longer"])
def test_a_file_that_is_not_the_listed_one_does_not_stay(hub, tmp_path, name, change):
    content = hub.files[name]
    hub.sent[name] = {
        "other": content[:-1] + bytes([content[-1] ^ 1]),
        "shorter": content[:-5],
        "longer": content + b"12345",
    }[change]
    refused(Code.CORRUPT, hub, tmp_path / "got")
    assert not (tmp_path / "got" / name).exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_file_that_is_cut_off_does_not_stay(hub, tmp_path, name):
    hub.cut.add(name)
    with pytest.raises(CounterfoilError) as caught:
        fetch(hub, tmp_path / "got")
    assert caught.value.code in {Code.CORRUPT, Code.UNAVAILABLE}
    assert not (tmp_path / "got" / name).exists()
    hub.cut.clear()
    assert fetch(hub, tmp_path / "got").root


def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(hub, folder, tmp_path):
    fetch(hub, tmp_path / "got")
    (tmp_path / "got" / "model.safetensors").write_bytes(b"damaged")
    assert fetch(hub, tmp_path / "got").root == model_root(folder)


@pytest.mark.parametrize(
    ("code", "where", "answer"),
    [
        (Code.NOT_FOUND, "/api/models", (404, "RepoNotFound")),
        (Code.NOT_FOUND, "/api/models", (401, "RepoNotFound")),
        (Code.NOT_FOUND, "/revision/v1", (404, "RevisionNotFound")),
        (Code.NOT_FOUND, "/resolve/", (404, "EntryNotFound")),
        (Code.FORBIDDEN, "/api/models", (403, "GatedRepo")),
        (Code.UNAVAILABLE, "/api/models", (500, "")),
        (Code.UNAVAILABLE, "/resolve/", (503, "")),
        (Code.UNAVAILABLE, "/cdn/", (500, "")),
    ],
)
def test_a_refusal_of_the_hub_says_what_to_do(hub, tmp_path, code, where, answer):
    hub.fail[where] = answer
    with pytest.raises(CounterfoilError) as caught:
        fetch(hub, tmp_path / "got", f"{NAME}@v1")
    assert caught.value.code is code
    assert caught.value.remedy


@pytest.mark.parametrize("where", ["/revision/", "/tree/"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b'[{"type": "file"}]', b'{"sha": 3}', b"[" * 9999]
)
def test_an_answer_that_makes_no_sense_is_an_error_and_nothing_more(hub, tmp_path, where, content):
    hub.raw[where] = content
    with pytest.raises(CounterfoilError) as caught:
        fetch(hub, tmp_path / "got", f"{NAME}@v1")
    assert caught.value.code in {Code.CORRUPT, Code.MALFORMED, Code.UNAVAILABLE, Code.NOT_FOUND}


def test_a_commit_that_is_not_one_is_refused(hub, tmp_path):
    hub.sha = "../../../etc"
    refused(Code.MALFORMED, hub, tmp_path / "got", "no commit")


def test_a_hub_that_is_not_there_is_unavailable_with_a_remedy(hub, tmp_path):
    with serving(Hub({})) as gone:
        pass
    with pytest.raises(CounterfoilError) as caught:
        fetch(gone, tmp_path / "got")
    assert caught.value.code is Code.UNAVAILABLE
    assert "network" in (caught.value.remedy or "")


def test_offline_mode_is_reported(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CounterfoilError) as caught:
        fetch(hub, tmp_path / "got")
    assert caught.value.code is Code.UNAVAILABLE
    assert not hub.requests


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:x",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/..",
        "hf:a/b@",
        "hf:a/b@../x",
        "hf:a/b@-x",
        "hf:a b/c",
    ],
)
def test_an_invalid_name_is_refused_before_anything_is_asked(hub, tmp_path, name):
    refused(Code.INVALID_ARGUMENT, hub, tmp_path / "got", "form", name)
    assert not hub.requests


@pytest.mark.parametrize("name", ["stranger.safetensors", "chat_template.jinja", INDEX, PART])
def test_a_folder_with_a_file_of_another_model_is_refused(hub, tmp_path, name):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / name).write_text("{}")
    refused(Code.CONFLICT, hub, tmp_path / "got", name)


def test_a_link_in_a_files_place_is_not_followed(hub, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "got" / "config.json").symlink_to(tmp_path / "precious")
    refused(Code.CONFLICT, hub, tmp_path / "got", "config.json")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_file_larger_than_any_of_its_kind_is_not_fetched(hub, tmp_path, name):
    hub.files[name] = b" " * (LARGEST[name] + 1)
    refused(Code.MALFORMED, hub, tmp_path / "got", name)
    assert not any(f"/resolve/{COMMIT}/{name}" in request for request in hub.requests)


def test_a_checkpoint_larger_than_any_is_not_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module, "MAX_CHECKPOINT", 1 << 12)
    refused(Code.MALFORMED, hub, tmp_path / "got", "model.safetensors")
    assert not any("/resolve/" in request and "model" in request for request in hub.requests)


def test_what_is_not_a_file_in_a_files_place_is_not_read(hub, tmp_path):
    (tmp_path / "got").mkdir()
    os.mkfifo(tmp_path / "got" / "config.json")
    refused(Code.CONFLICT, hub, tmp_path / "got", "config.json")


def test_a_model_root_other_than_expected_is_refused(hub, folder, tmp_path):
    root = model_root(folder)
    assert fetch(hub, tmp_path / "got", root=root).root == root
    with pytest.raises(CounterfoilError, match=root.hex()) as caught:
        fetch(hub, tmp_path / "got", root=bytes(32))
    assert caught.value.code is Code.COMMITMENT_MISMATCH


def test_a_folder_is_taken_as_it_is(folder, tmp_path):
    assert resolve(str(folder), into=None).root == model_root(folder)
    with pytest.raises(CounterfoilError) as caught:
        resolve(str(folder), into=tmp_path / "other")
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_the_command_prints_folder_root_and_commit(hub, folder, tmp_path):
    script = "from shared.model.cli import model; model()"
    arguments = ["fetch", NAME, "--into", str(tmp_path / "got"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "HF_ENDPOINT": hub.endpoint},
    )
    assert json.loads(done.stdout) == {
        "folder": str(tmp_path / "got"),
        "model_root": model_root(folder).hex(),
        "source": f"{NAME}@{COMMIT}",
    }
    shown = CliRunner().invoke(command, ["show", str(folder)], catch_exceptions=False)
    assert model_root(folder).hex() in shown.stdout
    assert "recommended  nothing" in shown.stdout


def test_help_and_fetching_import_no_torch():
    script = (
        "import sys; import shared.model.cli, shared.model.hub; from click.testing import CliRunner\n"
        "assert CliRunner().invoke(shared.model.cli.model, ['fetch', '--help']).exit_code == 0\n"
        "assert not {'torch', 'huggingface_hub', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
