"""Go's own code for transparency logs accepts what the real audit server publishes, and refuses all that is spoiled.

`apt install golang-go golang-golang-x-mod-dev golang-github-nebulouslabs-merkletree-dev` once makes these tests run
(or the same packages in a GOPATH); under CI they must not be skipped.
"""

import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from audit_layer.wiring.log_keys import load_signers
from shared.proto.counterfoil.audit.v1 import audit_pb2
from shared.runtime.tls import LocalCA
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import SignatureType, Signer, parse_note
from shared.translog.signed_checkpoint import sign
from shared.translog.tiles import ENTRY_RECORD_BYTES, tiles_grown
from shared.translog.tlog_proof import parse_tlog_proof
from shared.translog.tree import HASH_BYTES
from tests.audit_layer.api.published import PublishedLog
from tests.audit_layer.served import ORIGIN, call
from tests.independent.tools import need, run

SOURCE = Path(__file__).parent / "sumdb"
PACKAGES = ("golang.org/x/mod/sumdb/tlog", "github.com/NebulousLabs/merkletree")
DEBIAN = Path("/usr/share/gocode")
"""Where Debian's Go libraries are."""
SIZES = (1, 2, 255, 256, 257, 700, 256 * 256 + 3)


@pytest.fixture(scope="module")
def sumdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built without a network."""
    need(shutil.which("go") is not None, "Go is not installed: apt install golang-go")

    def go(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["go", *map(str, arguments)], cwd=SOURCE,  # noqa: S607 - whichever Go is installed
            env={**os.environ, **environment},
            capture_output=True, text=True, check=False, timeout=110,
        )  # fmt: skip

    paths = f"{go('env', 'GOPATH').stdout.strip()}{os.pathsep}{DEBIAN}"
    offline = {"GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOPATH": paths}
    listed = go("list", *PACKAGES, **offline)
    need(
        listed.returncode == 0,
        "Go packages are missing: apt install golang-golang-x-mod-dev"
        f" golang-github-nebulouslabs-merkletree-dev ({listed.stderr.strip()})",
    )
    binary = tmp_path_factory.mktemp("sumdb") / "sumdb"
    vetted = go("vet", ".", **offline)
    assert vetted.returncode == 0, vetted.stderr
    built = go("build", "-o", binary, ".", **offline)
    assert built.returncode == 0, built.stderr
    return binary


class Auditor:
    """The program, asked about one log."""

    def __init__(self, binary: Path, log: PublishedLog) -> None:
        self._binary = binary
        self.url = log.world.url
        self.vkey = log.vkeys[0]
        self.ca = log.world.ca

    async def _run(self, *more: str) -> tuple[int, str]:
        return await run(self._binary, "-url", self.url, "-ca", self.ca, "-vkey", self.vkey, *more)

    async def accepts(self, *more: str) -> dict[str, object]:
        status, said = await self._run(*more)
        assert status == 0, said
        report: dict[str, object] = json.loads(said)
        return report

    async def refuses(self, *more: str) -> str:
        status, said = await self._run(*more)
        assert (status, said[:9]) == (1, "refused: "), said
        return said


async def proof_of(log: PublishedLog, index: int) -> str:
    """Ask the server for the tlog-proof of an entry."""
    async with log.world.stubs() as (_, service, _directory):
        answer = await call(
            service.GetProof, audit_pb2.GetProofRequest(entry=log.entry(index)), timeout_s=30.0
        )
    assert answer.index == index
    return str(answer.tlog_proof)


async def test_gos_sumdb_accepts_the_log_at_every_size_and_its_growth(
    log: PublishedLog, sumdb: Path, tmp_path: Path
):
    auditor = Auditor(sumdb, log)
    older: list[str] = []
    proofs: list[str] = []
    for before, size in zip((0, *SIZES), SIZES, strict=False):
        note = await log.grow(before, size)
        for index in sorted({before, (before + size) // 2, size - 1}):
            file = tmp_path / f"{size}-{index}.tlog-proof"
            file.write_text(await proof_of(log, index), encoding="utf-8")
            proofs += ["-proof", f"{log.entry(index).hex()}:{file}"]
        report = await auditor.accepts(*older, *proofs)
        assert (report["size"], report["entries"]) == (size, size)
        assert (report["older"], report["proofs"]) == (len(older) / 2, len(proofs) / 2)
        assert report["tiles"] == sum(1 for _ in tiles_grown(0, size))
        assert isinstance(report["sampled"], int)
        assert report["sampled"] >= min(size, 2)
        # The log's ML-DSA-44 line and the witness's two are unknown to a verifier of 0x01, and are ignored.
        assert report["ignored_signatures"] == len(parse_note(note).signatures) - 1 == 3
        file = tmp_path / f"{size}.checkpoint"
        file.write_text(note, encoding="utf-8")
        older += ["-older", str(file)]


class QuietHandler(SimpleHTTPRequestHandler):
    """The standard library's file server, without its lines on standard error."""

    def log_message(self, *_arguments: object) -> None:
        pass


async def test_gos_sumdb_accepts_the_folder_behind_any_file_server(log: PublishedLog, sumdb: Path):
    for before, size in ((0, 100), (100, 300)):
        await log.grow(before, size)
    handler = functools.partial(QuietHandler, directory=str(log.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            auditor = Auditor(sumdb, log)
            auditor.url = f"http://127.0.0.1:{server.server_port}"
            assert (await auditor.accepts())["size"] == 300
        finally:
            server.shutdown()
            thread.join()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def recoded(data: bytes, at: int) -> bytes:
    """Put another base64 character at a place."""
    return data[:at] + (b"B" if data[at] == ord("A") else b"A") + data[at + 1 :]


def swapped(data: bytes, one: int, other: int, width: int) -> bytes:
    """Swap two records of a file."""
    records = [data[at : at + width] for at in range(0, len(data), width)]
    records[one], records[other] = records[other], records[one]
    return b"".join(records)


def without_line(data: bytes, number: int) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(lines[:number] + lines[number + 1 :])


@contextmanager
def spoiled(folder: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Iterator[None]:
    """Change published files for the length of the block."""
    kept = {name: (folder / name).read_bytes() for name in changes}
    try:
        for name, change in changes.items():
            changed = change(kept[name])
            assert changed != kept[name]
            (folder / name).write_bytes(changed)
        yield
    finally:
        for name, data in kept.items():
            (folder / name).write_bytes(data)


Spoil = tuple[dict[str, Callable[[bytes], bytes]], str]
BUNDLE, PARTIAL_BUNDLE = "tile/entries/001", "tile/entries/002.p/188"
TILE, PARTIAL_TILE, PARENT = "tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2"
FOREIGN_TILE, FOREIGN_ENTRIES = "does not belong to the entries", "another root than the checkpoint"
BAD_SIGNATURE = "invalid signature"
SPOILS: dict[str, Spoil] = {
    "a byte of a full tile": ({TILE: lambda d: flipped(d, 5000)}, FOREIGN_TILE),
    "the first byte of all": ({"tile/0/000": lambda d: flipped(d, 0)}, FOREIGN_TILE),
    "the last byte of all": ({PARTIAL_TILE: lambda d: flipped(d, len(d) - 1)}, FOREIGN_TILE),
    "a byte of a tile above": ({PARENT: lambda d: flipped(d, 40)}, FOREIGN_TILE),
    "two hashes of a tile": ({TILE: lambda d: swapped(d, 3, 200, HASH_BYTES)}, FOREIGN_TILE),
    "a tile that is too short": ({TILE: lambda d: d[:-HASH_BYTES]}, "500"),
    "a byte of an entry": ({BUNDLE: lambda d: flipped(d, 2 + 7)}, FOREIGN_ENTRIES),
    "the last entry": ({PARTIAL_BUNDLE: lambda d: flipped(d, len(d) - 1)}, FOREIGN_ENTRIES),
    "the length of an entry": ({BUNDLE: lambda d: flipped(d, 1)}, "ends within an entry"),
    "two entries": ({BUNDLE: lambda d: swapped(d, 0, 1, ENTRY_RECORD_BYTES)}, FOREIGN_ENTRIES),
    "two entries and their leaf hashes": (
        {
            BUNDLE: lambda d: swapped(d, 9, 10, ENTRY_RECORD_BYTES),
            TILE: lambda d: swapped(d, 9, 10, HASH_BYTES),
        },
        FOREIGN_ENTRIES,
    ),
    "the origin": ({"checkpoint": lambda d: flipped(d, 0)}, BAD_SIGNATURE),
    "the size": ({"checkpoint": lambda d: d.replace(b"\n700\n", b"\n699\n")}, BAD_SIGNATURE),
    "the root": ({"checkpoint": lambda d: flipped(d, d.index(b"\n700\n") + 8)}, BAD_SIGNATURE),
    "the signature": (
        {"checkpoint": lambda d: recoded(d, d.index(b"\xe2\x80\x94") + 50)},
        BAD_SIGNATURE,
    ),
    "no signature": ({"checkpoint": lambda d: without_line(d, 4)}, "no verifiable signatures"),
}


async def test_gos_sumdb_refuses_each_spoiled_file_and_nothing_else(log: PublishedLog, sumdb: Path):
    await log.grow(0, 700)
    auditor = Auditor(sumdb, log)
    await auditor.accepts()
    for what, (changes, reason) in SPOILS.items():
        with spoiled(log.folder, changes):
            assert reason in await auditor.refuses(), what
    gone = log.folder / "tile/1/000.p/2"
    kept = gone.read_bytes()
    gone.unlink()
    assert "404" in await auditor.refuses()
    gone.write_bytes(kept)
    await auditor.accepts()


async def test_gos_sumdb_refuses_another_history_another_key_and_another_authority(
    log: PublishedLog, sumdb: Path, tmp_path: Path
):
    note = await log.grow(0, 300)
    auditor = Auditor(sumdb, log)
    signers = load_signers(log.settings.keys_folder, ORIGIN)
    file = tmp_path / "older"
    for forged in (Checkpoint(ORIGIN, 256, b"\x01" * 32), Checkpoint(ORIGIN, 300, b"\x01" * 32),
                   Checkpoint(ORIGIN, 301, b"\x01" * 32)):  # fmt: skip
        file.write_text(sign(forged, signers, time_s=1).encode(), encoding="utf-8")
        await auditor.refuses("-older", str(file))
    file.write_text(note, encoding="utf-8")
    await auditor.accepts("-older", str(file))
    auditor.vkey = Signer(ORIGIN, SignatureType.ED25519, b"\x05" * 32).verifier.vkey()
    assert "no verifiable signatures" in await auditor.refuses()
    auditor.vkey = log.vkeys[0]
    auditor.ca = LocalCA.load_or_create(tmp_path / "another ca").ca_file
    assert "certificate" in await auditor.refuses()


async def test_gos_sumdb_refuses_a_changed_tlog_proof(
    log: PublishedLog, sumdb: Path, tmp_path: Path
):
    await log.grow(0, 300)
    auditor = Auditor(sumdb, log)
    text = await proof_of(log, 77)
    first, second = (line for line in text.split("\n")[2:4])
    file = tmp_path / "one.tlog-proof"

    def given(text: str, index: int = 77) -> tuple[str, str]:
        file.write_text(text, encoding="utf-8")
        return "-proof", f"{log.entry(index).hex()}:{file}"

    await auditor.accepts(*given(text))
    head, note = text.split("\n\n", 1)
    await auditor.accepts(*given(text.replace("\nindex", "\nextra AAAA\nindex", 1)))
    assert parse_tlog_proof(text).index == 77
    for changed in (
        text.replace("index 77\n", "index 76\n"),
        text.replace("index 77\n", "index 077\n"),
        text.replace("index 77\n", "index 300\n"),
        text.replace(f"{first}\n{second}\n", f"{second}\n{first}\n"),
        text.replace(f"{first}\n", ""),
        f"{head}\n{first}\n\n{note}",
        text.replace("@v1", "@v2"),
        text.replace("\n300\n", "\n301\n"),
    ):
        assert changed != text
        await auditor.refuses(*given(changed))
    await auditor.refuses(*given(text, index=78))
