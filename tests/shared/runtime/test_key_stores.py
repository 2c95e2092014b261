"""What every kind of key store promises: one suite for all of them, and what each adds."""

import base64
import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from audit_layer.wiring.note_keys import create_note_key, load_note_key
from shared.envelope.hpke import load_hpke_key, load_or_create_hpke_key, seal
from shared.envelope.opaque import opening
from shared.runtime import age, key_store, protecting
from shared.runtime.cli import run
from shared.runtime.config import checked, load, to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE
from shared.runtime.key_commands import key
from shared.runtime.key_store import KeyStoreSettings, open_store, read_passphrase
from shared.runtime.keys import (
    FILES,
    load_ed25519,
    load_or_create_ed25519,
    private_pem,
    public_bytes,
    write_private,
)
from shared.runtime.protecting import kind_of, protect, unprotect
from shared.translog.notes import SignatureType
from tests.shared.runtime.key_holder import KIND, DoubleOfAHolder

PASSPHRASE = b"correct horse battery staple"
REFERENCE = (
    b'{"format": "counterfoil-key-reference/v1", "store": "pkcs11", "label": "1", "algorithm": "ed25519",'
    b' "public_key": "00"}'
)
NOTES = (SignatureType.ED25519, SignatureType.COSIGNATURE_MLDSA44)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(age, "WORK", 4)


@pytest.fixture
def secret_file(tmp_path):
    path = tmp_path / "passphrase"
    write_private(path, PASSPHRASE + b"\n")
    return path


@pytest.fixture(params=["file", "passphrase", KIND])
def kind(request, secret_file):
    """One kind of store; `open` opens it anew, as another process would."""
    holder = DoubleOfAHolder()
    values = {
        "file": {},
        "passphrase": {"kind": "passphrase", "passphrase_from": f"file:{secret_file}"},
        KIND: {"kind": KIND, "options": {"prefix": "acme-"}},
    }[request.param]
    settings = KeyStoreSettings(**values)
    return SimpleNamespace(
        name=request.param,
        settings=settings,
        holder=holder,
        open=lambda: open_store(settings, {KIND: lambda: holder}),
    )


def refused(call, code=Code.CONFIGURATION):
    with pytest.raises(CounterfoilError) as caught:
        call()
    assert caught.value.code is code
    return caught.value


# What every kind promises


def test_a_signing_key_is_made_once_and_signs(kind, tmp_path):
    path = tmp_path / "keys" / "sign.pem"
    made = load_or_create_ed25519(path, kind.open())
    again = load_ed25519(path, kind.open())
    assert public_bytes(made) == public_bytes(again)
    assert public_bytes(load_or_create_ed25519(path, kind.open())) == public_bytes(made)
    again.public_key().verify(made.sign(b"statement"), b"statement")
    with pytest.raises(InvalidSignature):
        again.public_key().verify(made.sign(b"statement"), b"another")


def test_an_hpke_key_is_made_once_and_opens_what_is_sealed_for_it(kind, tmp_path):
    path = tmp_path / "keys" / "hpke.key"
    made = load_or_create_hpke_key(path, kind.open())
    again = load_hpke_key(path, kind.open())
    assert made.key_id == again.key_id
    data = seal(made.public_bytes, b"info", b"share")
    assert again.open(b"info", data) == b"share"
    for info, spoiled in ((b"other", data), (b"info", data[:-1]), (b"info", b""), (b"info", bytes(2000))):  # fmt: skip
        refused(lambda info=info, spoiled=spoiled: again.open(info, spoiled), Code.UNREADABLE)


@pytest.mark.parametrize("signature", NOTES)
def test_a_checkpoint_key_is_made_once_and_belongs_to_one_name(kind, tmp_path, signature):
    path = tmp_path / "keys" / "log"
    made = create_note_key(path, "log.example", signature, kind.open())
    again = load_note_key(path, "log.example", signature, kind.open())
    assert made.verifier.vkey() == again.verifier.vkey()
    assert made.verifier.verify_raw(again.sign_raw(b"checkpoint"), b"checkpoint")


def test_racing_creators_get_one_key(kind, tmp_path):
    found, barrier = [], threading.Barrier(4)

    def create():
        barrier.wait()
        found.append(public_bytes(load_or_create_ed25519(tmp_path / "sign.pem", kind.open())))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_files_are_their_owners_alone_and_what_others_may_read_is_refused(kind, tmp_path):
    path = tmp_path / "keys" / "sign.pem"
    made = load_or_create_ed25519(path, kind.open())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (kind.name == "file") == (b"PRIVATE KEY" in path.read_bytes())
    assert kind_of(path.read_bytes()) == kind.name == kind.open().kind
    assert PASSPHRASE.decode() not in repr(kind.open()) + repr(made) + repr(kind.settings)
    path.chmod(0o644)
    assert "chmod 600" in refused(lambda: load_ed25519(path, kind.open())).remedy


def test_a_key_that_is_absent_or_another_stores_is_refused_with_a_remedy(
    kind, tmp_path, secret_file
):
    path = tmp_path / "keys" / "sign.pem"
    assert refused(lambda: load_ed25519(path, kind.open())).remedy
    assert not path.parent.exists()
    path.parent.mkdir()
    others = {
        "file": private_pem(Ed25519PrivateKey.generate()),
        "passphrase": age.seal(private_pem(Ed25519PrivateKey.generate()), PASSPHRASE),
        KIND: REFERENCE,
    }
    for name, data in others.items():
        write_private(path, data)
        if name != kind.name or name == KIND:
            error = refused(lambda: load_ed25519(path, kind.open()))
            assert str(path) in error.detail
        assert path.read_bytes() == data  # nothing is replaced
    load_or_create_hpke_key(tmp_path / "hpke", kind.open())
    refused(lambda: load_ed25519(tmp_path / "hpke", kind.open()))


def test_a_file_that_was_changed_anywhere_gives_no_other_key(kind, tmp_path):
    """A plain file has nothing that could show it, so this is what the two other kinds add."""
    path = tmp_path / "sign.pem"
    own = public_bytes(load_or_create_ed25519(path, kind.open()))
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        write_private(path, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with contextlib.suppress(CounterfoilError):
            found = public_bytes(load_ed25519(path, kind.open()))
            assert found == own or kind.name == "file"
    for cut in range(0, len(data), 40):
        write_private(path, data[:cut])
        refused(lambda: load_ed25519(path, kind.open()))
    write_private(path, data + b"x" * 70_000)
    refused(lambda: load_ed25519(path, kind.open()))


def test_a_configuration_says_where_the_keys_are(kind, tmp_path):
    path = tmp_path / "party.toml"
    path.write_text(to_toml(kind.settings))
    assert load(KeyStoreSettings, path) == kind.settings


# Passphrases


def test_another_passphrase_is_told_apart_and_nothing_is_lost(tmp_path):
    path = tmp_path / "sign.pem"
    store = key_store.PassphraseStore(PASSPHRASE)
    own = public_bytes(load_or_create_ed25519(path, store))
    error = refused(lambda: load_ed25519(path, key_store.PassphraseStore(b"wrong")))
    assert "passphrase does not open" in error.detail
    assert "passphrase_from" in error.remedy
    assert public_bytes(load_ed25519(path, store)) == own
    assert "damaged" in age_of(path, PASSPHRASE, b"-----END", b"-----EMD")


def age_of(path, passphrase, old, new):
    data = path.read_bytes().replace(old, new)
    return refused(lambda: key_store.unsealed(path, data, passphrase)).detail


FROZEN = b"""-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBiR3Fma3RWVGlyaXpoTnFk
N3RTSFpnIDEwCjJVUnhrNDBNekVEKzczNWozSjdCNlRQWDRobjJrWjZxSEhiK3FU
aFJISkEKLS0tIDRxT2FkcHh0UWxMUFNPRUxtQ1pHTjRpU1prS3hOQUVaMnZ6VllM
VUV2bWsK/jEFcKU1tCrEEAJDuAQyzwRsuU9RCsxd1HwyXx0d0UwwTwr/fCwQILol
/H5bRh1l/VXyq3WPtXEl1fF8nYU4hwNdtKjepJ+az9+9gOBWgYP2VQQ246bQEiV5
6ynFWfcGeU3sQhTVwRR5lhxV7Er0KVMORSjoSTKW8bOJI7F4m8aA0kIuj7PHSuNS
1UftObBPvNMBZCT1AhpIpqwfbbm2jboSWnTN4V+gbrwVNWETuQqftW2AX0BKP3C0
h5cFn9EbYwvkUIGFSxDeywV7gNd+g0DLlJQLthKnTkbDdzV4/oPUQ0MifyNcVktp
KCfQY26l9O3H89jPiZyNaPFZeFLjVmiAYSymO4WltiwiAh5scMUsZe1/TDSD/i8/
KYCJD1rdJ1/8OQ==
-----END AGE ENCRYPTED FILE-----
"""
"""rage, another author's age, opens this file with the passphrase `correct horse`."""


def test_the_format_is_one_that_others_open():
    assert age.unseal(FROZEN, b"correct horse") == b"hello secret\n" * 20
    with pytest.raises(age.WrongPassphraseError):
        age.unseal(FROZEN, b"correct horse ")


def test_a_file_cannot_ask_for_more_work_than_a_start_can_afford():
    sealed = age.seal(b"x", PASSPHRASE)
    body = age._dearmored(sealed).replace(b" 4\n", b" 31\n")
    text = age.BEGIN + "\n" + base64.b64encode(body).decode() + "\n" + age.END + "\n"
    with pytest.raises(age.DamagedError, match="more work"):
        age.unseal(text.encode(), PASSPHRASE)


def test_a_passphrase_comes_from_a_descriptor_a_file_a_credential_or_a_named_file(
    tmp_path, monkeypatch, secret_file
):
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE + b"\n")
    os.close(writing)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("ACME_PASSPHRASE_FILE", str(secret_file))
    sources = (
        *(f"fd:{reading}", f"fd:{reading}"),  # both of a node's stores may name it
        *(f"file:{secret_file}", "credential:passphrase", "env:ACME_PASSPHRASE_FILE"),
    )
    assert {read_passphrase(source) for source in sources} == {PASSPHRASE}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("fd:987", "Bad file descriptor"),
        ("file:/nowhere/passphrase", "No such file"),
        ("file:{folder}/loose", "open to other users"),
        ("file:{folder}/empty", "is empty"),
        ("file:{folder}/long", "more than 1024"),
        ("file:{folder}", "secret"),
        ("credential:passphrase", "CREDENTIALS_DIRECTORY is not set"),
        ("env:ACME_UNSET", "ACME_UNSET is not set"),
        ("correct horse", "passphrase_from is"),
        ("credential:../passphrase", "passphrase_from is"),
        ("file:relative", "passphrase_from is"),
        ("fd:-1", "passphrase_from is"),
    ],
)
def test_a_source_without_a_passphrase_says_what_is_wrong(tmp_path, monkeypatch, source, said):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    write_private(tmp_path / "empty", b"\n")
    write_private(tmp_path / "long", b"x" * 1025)
    (tmp_path / "loose").write_bytes(PASSPHRASE)
    (tmp_path / "loose").chmod(0o644)
    error = refused(lambda: read_passphrase(source.format(folder=tmp_path)))
    assert said in f"{error.detail} {error.remedy}"


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "passphrase"},
        {"passphrase_from": "fd:3"},
        {"kind": "passphrase", "passphrase_from": "hunter2"},
        {"kind": "passphrase", "passphrase": "hunter2"},
        {"options": {"a": "b"}},
        {"kind": "../x"},
    ],
)
def test_a_configuration_without_sense_or_with_a_passphrase_in_it_is_refused(values):
    assert "hunter2" not in str(refused(lambda: checked(KeyStoreSettings, values, "party.toml")))


# Plug-ins


def test_a_plug_in_that_is_lost_says_so_at_start_and_at_each_use(tmp_path):
    holder, settings = DoubleOfAHolder(), KeyStoreSettings(kind=KIND)

    def opened():
        return open_store(settings, {KIND: lambda: holder})

    sign, hpke = tmp_path / "sign.pem", tmp_path / "hpke.key"
    signer, opener = (
        load_or_create_ed25519(sign, opened()),
        load_or_create_hpke_key(hpke, opened()),
    )
    sealed = seal(opener.public_bytes, b"info", b"share")
    error = refused(lambda: open_store(settings, {}))
    assert "no plug-in that is installed" in error.detail
    assert error.remedy
    assert "no plug-in that is installed" in refused(lambda: open_store(settings)).detail
    holder.failing = ConnectionError("the device is gone")
    assert "does not start" in refused(opened).detail
    assert refused(lambda: signer.sign(b"x"), Code.UNAVAILABLE).remedy
    with pytest.raises(CounterfoilError) as caught, opening():  # nobody's fault: not UNREADABLE
        opener.open(b"info", sealed)
    assert caught.value.code is Code.UNAVAILABLE
    holder.failing = None
    assert signer.sign(b"x")
    assert opener.open(b"info", sealed) == b"share"
    lost = holder.keys.popitem()
    assert "has no key" in refused(lambda: load_hpke_key(hpke, opened())).detail
    holder.keys.update([lost])


def test_a_plug_in_that_holds_another_key_now_is_noticed_before_and_when_it_signs(tmp_path):
    holder, settings = DoubleOfAHolder(), KeyStoreSettings(kind=KIND)
    path = tmp_path / "sign.pem"
    signer = load_or_create_ed25519(path, open_store(settings, {KIND: lambda: holder}))
    holder.signs_with = Ed25519PrivateKey.generate()
    refused(lambda: signer.sign(b"x"), Code.UNAVAILABLE)
    holder.signs_with = None
    (label,) = holder.keys
    holder.keys[label] = Ed25519PrivateKey.generate()
    error = refused(lambda: load_ed25519(path, open_store(settings, {KIND: lambda: holder})))
    assert "another key" in error.detail


def test_a_key_that_the_device_holds_already_is_referred_to_by_command(
    tmp_path, monkeypatch, capsys
):
    holder, file = DoubleOfAHolder(), tmp_path / "client" / "tenant.pem"
    monkeypatch.setattr(key_store, "installed", lambda: {KIND: lambda: holder})
    holder({})
    label, other = holder.create("ed25519"), holder.create("mlkem768-x25519")

    def call(*words):
        return run(key, ["refer", str(file), *words]), capsys.readouterr().out

    assert call("--label", label)[0] == 2  # which plug-in?
    assert call("--label", "none", "--key-store", KIND)[0] == 2
    assert call("--label", other, "--key-store", KIND)[0] == 2  # opens, and signs nothing
    assert not file.exists()
    code, out = call("--label", label, "--key-store", KIND)
    assert code == 0
    assert holder.public_key(label).hex() in out
    store = open_store(KeyStoreSettings(kind=KIND))
    assert public_bytes(load_or_create_ed25519(file, store)) == holder.public_key(label)
    assert call("--label", label, "--key-store", KIND)[0] == 6  # a file is not replaced


def test_what_is_no_key_pair_or_lives_a_day_stays_in_files(tmp_path):
    store = open_store(KeyStoreSettings(kind=KIND), {KIND: DoubleOfAHolder})
    store.create_secret(tmp_path / "storage.key", b"secret\n")
    assert store.secret(tmp_path / "storage.key") == FILES.secret(tmp_path / "storage.key")


# A passphrase put on and taken off


def keys_in(folder):
    """Make one key of each form; return their files."""
    load_or_create_ed25519(folder / "sign.pem")
    load_or_create_hpke_key(folder / "hpke.key")
    create_note_key(folder / "log", "log.example", SignatureType.COSIGNATURE_MLDSA44, FILES)
    write_private(folder / "beacon.secret", os.urandom(32))
    return [folder / name for name in ("sign.pem", "hpke.key", "log", "beacon.secret")]


def test_a_passphrase_is_put_on_changed_and_taken_off_by_command(tmp_path, capsys):
    (tmp_path / "keys").mkdir()
    files = keys_in(tmp_path / "keys")
    before = [path.read_bytes() for path in files]
    sources = []
    for name in ("one", "two"):
        write_private(tmp_path / name, name.encode())
        sources.append(f"file:{tmp_path / name}")
    one, two = sources
    words = [str(path) for path in files]

    def call(*options):
        code = run(key, list(options))
        return code, capsys.readouterr()

    assert call("protect", *words)[0] == 2
    assert call("protect", *words, "--passphrase-from", one)[0] == 0
    assert "unchanged" in call("protect", *words, "--passphrase-from", one)[1].out
    shown = call("show", *words, "--json")[1].out
    assert shown.count('"passphrase"') == len(files)
    for path, content in zip(files, before, strict=True):
        assert content.strip() not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert key_store.PassphraseStore(b"one").secret(path) == content
    assert call("protect", *words, "--passphrase-from", two)[0] == 2  # not without the present one
    changing = ("--passphrase-from", two, "--current-passphrase-from", one)
    assert call("protect", *words, *changing)[0] == 0
    assert call("unprotect", *words, "--passphrase-from", one)[0] == 2
    assert call("unprotect", *words, "--passphrase-from", two)[0] == 0
    assert [path.read_bytes() for path in files] == before
    assert call("unprotect", *words, "--passphrase-from", two)[0] == 0


def test_only_keys_of_key_stores_get_a_passphrase(tmp_path):
    tls = ec.generate_private_key(ec.SECP256R1())
    contents = (
        tls.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        b"postgresql://counterfoil@/db",
        b"",
        REFERENCE,
    )
    for content in contents:
        write_private(tmp_path / "file", content)
        refused(lambda: protect(tmp_path / "file", PASSPHRASE), Code.CONFLICT)
        assert (tmp_path / "file").read_bytes() == content


class Killed(BaseException):
    """Ends a call where it stands, as SIGKILL does: nothing that tidies up after errors catches it."""


@pytest.mark.parametrize("place", ["open", "fchmod", "fsync", "replace"])
@pytest.mark.parametrize("way", [protect, unprotect])
def test_a_kill_anywhere_leaves_a_key_that_opens(tmp_path, monkeypatch, place, way):
    path = tmp_path / "keys" / "sign.pem"
    own = public_bytes(load_or_create_ed25519(path))
    if way is unprotect:
        protect(path, PASSPHRASE)

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, place, kill)
        with pytest.raises(Killed):
            way(path, PASSPHRASE)
    sealed = protecting.kind_of(path.read_bytes()) == "passphrase"
    store = key_store.PassphraseStore(PASSPHRASE) if sealed else FILES
    assert public_bytes(load_ed25519(path, store)) == own
    for left in path.parent.iterdir():
        assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert way(path, PASSPHRASE) == (sealed == (way is unprotect))
    assert protecting.kind_of(path.read_bytes()) == ("passphrase" if way is protect else "file")


def test_the_command_can_be_killed_and_run_again(tmp_path, secret_file):
    """The work of a real file: no faster function stands in for scrypt here."""
    path = tmp_path / "keys" / "sign.pem"
    own = public_bytes(load_or_create_ed25519(path))
    words = ["key", "protect", str(path), "--passphrase-from", f"file:{secret_file}"]
    command = [sys.executable, "-m", "shared.runtime", *words]
    killed = {**os.environ, VARIABLE: "key.sealed:kill"}
    assert subprocess.run(command, env=killed, check=False).returncode == -signal.SIGKILL
    assert public_bytes(load_ed25519(path)) == own
    subprocess.run(command, env={**killed, VARIABLE: "key.protected:kill"}, check=False)
    assert public_bytes(load_ed25519(path, key_store.PassphraseStore(PASSPHRASE))) == own
