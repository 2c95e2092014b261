import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shared.runtime import keys
from shared.runtime.errors import Code, CounterfoilError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_key_is_made_once_and_private(tmp_path):
    path = tmp_path / "new" / "node.pem"
    first = keys.load_or_create_ed25519(path)
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert keys.public_bytes(keys.load_or_create_ed25519(path)) == keys.public_bytes(first)
    assert names(path.parent) == ["node.pem"]


def test_racing_creators_get_one_key(tmp_path):
    found: list[bytes] = []
    barrier = threading.Barrier(8)

    def create() -> None:
        barrier.wait()
        found.append(keys.public_bytes(keys.load_or_create_ed25519(tmp_path / "k.pem")))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_key_id_is_the_hash_of_the_raw_public_key():
    # RFC 8032 §7.1 test 1
    private = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert keys.public_bytes(private) == raw
    expected = hashlib.sha256(raw).digest()
    assert keys.key_id(private) == keys.key_id(private.public_key()) == keys.key_id(raw) == expected
    assert keys.public_bytes(keys.public_key(raw)) == raw
    with pytest.raises(CounterfoilError) as caught:
        keys.public_key(raw[:31])
    assert caught.value.code is Code.MALFORMED


def test_a_key_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "k.pem"
    keys.load_or_create_ed25519(path)
    path.chmod(0o644)
    with pytest.raises(CounterfoilError, match="chmod 600"):
        keys.load_ed25519(path)


def test_what_is_not_an_ed25519_key_is_refused(tmp_path):
    path = tmp_path / "k.pem"
    other = ec.generate_private_key(ec.SECP256R1())
    for data in (
        b"",
        b"not a key",
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        keys.private_pem(Ed25519PrivateKey.generate())[:60],
    ):
        keys.write_private(path, data)
        with pytest.raises(CounterfoilError) as caught:
            keys.load_ed25519(path)
        assert caught.value.code is Code.CONFIGURATION


def test_atomic_writes_have_the_mode_asked_for_whatever_the_umask(tmp_path):
    for umask in (0, 0o077):
        before = os.umask(umask)
        try:
            keys.write_atomic(tmp_path / "public", b"1", mode=keys.PUBLIC_FILE)
            keys.write_atomic(tmp_path / "unsaid", b"1")
            keys.write_private(tmp_path / "private", b"1")
            keys.append_private(tmp_path / f"log-{umask}").close()
            keys.private_folder(tmp_path / f"a-{umask}" / "b")
            keys.make_folder(tmp_path / f"c-{umask}" / "d", keys.PUBLIC_FOLDER)
        finally:
            os.umask(before)
        assert mode(tmp_path / "public") == 0o644
        assert mode(tmp_path / "unsaid") == mode(tmp_path / "private") == 0o600
        assert mode(tmp_path / f"log-{umask}") == 0o600
        for name, wanted in (("a", 0o700), ("c", 0o755)):
            folder = tmp_path / f"{name}-{umask}"
            assert {mode(path) for path in (folder, *folder.iterdir())} == {wanted}


def test_a_folder_that_exists_keeps_its_mode_and_a_file_is_none(tmp_path):
    tmp_path.chmod(0o750)
    keys.private_folder(tmp_path)
    assert mode(tmp_path) == 0o750
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            keys.private_folder(path)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "state"
    keys.write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        keys.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["state"]


def test_create_private_never_replaces(tmp_path):
    path = tmp_path / "secret"
    assert keys.create_private(path, b"first")
    assert not keys.create_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["secret"]


def test_a_result_replaces_the_file_behind_a_link_whole(tmp_path):
    real, link = tmp_path / "2026-11.csv", tmp_path / "latest.csv"
    real.write_bytes(b"old")
    link.symlink_to(real)
    keys.write_result(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert names(tmp_path) == ["2026-11.csv", "latest.csv"]


def test_a_result_is_as_private_as_it_is_asked_to_be(tmp_path):
    path = tmp_path / "result"
    keys.write_result(path, b"new")
    assert mode(path) == 0o600
    path.chmod(0o640)  # its owner lets a group read it
    keys.write_result(path, b"again")
    assert mode(path) == 0o640
    keys.write_result(path, b"public", mode=keys.PUBLIC_FILE)
    assert mode(path) == 0o644
    keys.write_result(path, b"private", mode=keys.PRIVATE_FILE)
    assert mode(path) == 0o600


def test_a_result_that_cannot_be_written_is_named_with_the_reason(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"kept")
    for path, reason in (
        (tmp_path / "nowhere" / "x", "No such file"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "pipe", "not a file"),
        (tmp_path, "not a file"),
    ):
        with pytest.raises(CounterfoilError, match=reason) as caught:
            keys.write_result(path, b"new")
        assert caught.value.code is Code.CONFIGURATION
        assert str(path) in caught.value.detail
        assert caught.value.remedy
    assert names(tmp_path) == ["file", "pipe"]
    assert (tmp_path / "file").read_bytes() == b"kept"
