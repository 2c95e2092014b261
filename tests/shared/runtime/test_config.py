from pathlib import Path

import pytest
from pydantic import Field

from shared.runtime.config import Settings, check_private, load, read_secret, to_toml
from shared.runtime.errors import Code, CounterfoilError


class Listen(Settings):
    """Where a server listens."""

    address: str
    """host:port; port 0 takes any free one."""
    max_bytes: int = Field(default=1024, ge=1)


class Peer(Settings):
    name: str
    ca_file: Path | None = None


class Example(Settings):
    name: str
    listen: Listen
    key_file: Path
    peers: tuple[Peer, ...] = ()
    models: list[Path] = Field(default_factory=list)
    ratio: float = 0.5
    labels: dict[str, str] = Field(default_factory=dict)
    extra: Peer | None = None


GOOD = """
name = "one"
key_file = "keys/node.pem"
models = ["m", "/abs"]
[listen]
address = "127.0.0.1:0"
[[peers]]
name = "w"
ca_file = "ca.pem"
"""


def load_text(folder: Path, text: str, *, env_prefix: str | None = None) -> Example:
    path = folder / "node.toml"
    path.write_text(text)
    return load(Example, path, env_prefix=env_prefix)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(CounterfoilError) as caught:
        load_text(folder, text)
    assert caught.value.code is Code.CONFIGURATION
    return caught.value.detail


def test_paths_are_relative_to_the_file(tmp_path):
    found = load_text(tmp_path, GOOD)
    assert found.key_file == tmp_path / "keys/node.pem"
    assert found.models == [tmp_path / "m", Path("/abs")]
    assert found.peers[0].ca_file == tmp_path / "ca.pem"


def test_an_unknown_key_names_the_file_the_key_and_the_nearest_known_one(tmp_path):
    message = refused(tmp_path, GOOD.replace("address", "adress"))
    assert "node.toml" in message
    assert "listen.adress: unknown key; the nearest known one is address" in message
    assert "listen.address: is missing" in message


def test_an_unknown_key_in_an_array_of_tables_is_placed(tmp_path):
    message = refused(tmp_path, GOOD + 'nmae = "x"\n')
    assert "peers.0.nmae: unknown key; the nearest known one is name" in message


def test_an_unknown_key_of_the_top_level_is_reported_too(tmp_path):
    assert "key_fiel: unknown key; the nearest known one is key_file" in refused(
        tmp_path, 'key_fiel = "x"\n' + GOOD
    )


def test_every_problem_is_reported_and_no_value_is_repeated(tmp_path):
    message = refused(
        tmp_path,
        'name = 5\nkey_file = "k"\n[listen]\naddress = "a"\nmax_bytes = -77123\n',
    )
    assert "name: " in message
    assert "listen.max_bytes: " in message
    assert "77123" not in message


@pytest.mark.parametrize("text", ["name = ", "\x00", 'name = "one"\nname = "two"'])
def test_what_is_not_toml_is_refused(tmp_path, text):
    assert "is not TOML" in refused(tmp_path, text)


def test_invalid_utf8_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "node.toml"
    with pytest.raises(CounterfoilError, match="cannot be read"):
        load(Example, path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(CounterfoilError, match="not UTF-8"):
        load(Example, path)


def test_the_environment_overrides_when_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERFOIL_LISTEN_MAX_BYTES", "7")
    monkeypatch.setenv("COUNTERFOIL_NAME", "two")
    monkeypatch.setenv("COUNTERFOIL_MODELS", '["x"]')
    found = load_text(tmp_path, GOOD, env_prefix="COUNTERFOIL")
    assert (found.listen.max_bytes, found.name, found.models) == (7, "two", [tmp_path / "x"])
    assert load_text(tmp_path, GOOD).name == "one"


def test_a_settings_file_that_was_written_is_read_back(tmp_path):
    before = Example(
        name='quo"te \\ \t\u00e9\U0001f600\x7f',
        listen=Listen(address="127.0.0.1:0", max_bytes=2),
        key_file=Path("/k.pem"),
        peers=(Peer(name="a"), Peer(name="b", ca_file=Path("/ca.pem"))),
        models=[Path("/m")],
        ratio=0.25,
        labels={"odd key": "v", "plain": "w"},
        extra=Peer(name="c"),
    )
    text = to_toml(before)
    assert load_text(tmp_path, text) == before
    assert "# host:port; port 0 takes any free one." in text


def test_settings_cannot_be_changed(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        load_text(tmp_path, GOOD).name = "other"


@pytest.mark.parametrize(
    ("mode", "open_to_others"), [(0o600, False), (0o640, False), (0o644, True), (0o620, True)]
)
def test_a_secret_that_others_can_reach_is_refused(tmp_path, mode, open_to_others):
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    path.chmod(mode)
    if open_to_others:
        with pytest.raises(CounterfoilError, match="chmod 600"):
            read_secret(path)
    else:
        assert read_secret(path) == "s3cret"


def test_a_missing_secret_says_what_to_do(tmp_path):
    with pytest.raises(CounterfoilError, match="init"):
        check_private(tmp_path / "absent")
