"""A copy of a log is checked entry by entry, and shows nothing that does not lead to the witnessed root."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.responses import Response

from audit_layer.monitor.client import ApiClient, Https
from audit_layer.monitor.findings import FoundError
from audit_layer.monitor.mirror import WIDTHS_KEPT, FolderFiles, LogMirror
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, sign
from shared.statements.keys import MAX_LIFE_MS, KeyBundle, Revocation
from shared.translog.published import PublishedLog
from shared.translog.tlog_proof import verify_tlog_proof
from shared.verification.directory_file import parse_directory
from tests.audit_layer.monitor.doubles import POLICY, TIME, LyingLog, some_entries
from tests.audit_layer.monitor.test_process import KEYS, ROOT

NOW = 1000 * TIME
OPERATOR = Ed25519PrivateKey.generate()
PUBLIC = "v1/public/statements"


def bundle(node="n1", not_after=NOW + 3_600_000):
    value = KeyBundle(
        operator="op", node=node, not_before=not_after - MAX_LIFE_MS, not_after=not_after,
        signing_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw(),
        hpke_key=os.urandom(1216), model_roots=(bytes(32),), numeric_profile=bytes(32), profile={},
        endpoint="127.0.0.1:1",
    )  # fmt: skip
    return sign(value, key=OPERATOR, issuer="op")


def revocation(raw):
    value = Revocation(bundle=entry_of(raw), reason="key lost", at=NOW)
    return sign(value, key=OPERATOR, issuer="op")


class Copying:
    """A mirror of the scene's server; each step begins without memory but the folder."""

    def __init__(self, scene, folder):
        self.scene = scene
        self.folder = folder
        self.now = NOW

    async def step(self):
        https = Https(self.scene.url, self.scene.ca, timeout_s=self.scene.timeout_s)
        try:
            return await LogMirror(
                self.folder, POLICY, PublishedLog(https), ApiClient(https), clock=lambda: self.now
            ).step()
        finally:
            await https.aclose()

    async def refused(self):
        before = self.shown()
        with pytest.raises((CounterfoilError, FoundError)) as caught:
            await self.step()
        assert self.shown() == before
        return caught.value

    def shown(self):
        names = ("checkpoint", "directory.json")
        return [
            path.read_bytes() if (path := self.folder / name).exists() else b"" for name in names
        ]

    def listed(self):
        """The statements that the copy lists, each verified under its own checkpoint."""
        file = parse_directory((self.folder / "directory.json").read_bytes())
        for item in file.statements:
            verify_tlog_proof(file.proof(item), entry_of(item.statement), POLICY)
        return [item.statement for item in file.statements]

    async def whole(self, log, size):
        """Assert that the copy has every file of a tree, as the log would serve it."""
        copy = PublishedLog(FolderFiles(self.folder))
        assert await copy.checkpoint() == self.scene.server.files["checkpoint"]
        for path, data in log.files(size).items():
            assert (self.folder / path).read_bytes() == data


@pytest.fixture
def copying(scene, tmp_path):
    return Copying(scene, tmp_path / "copy")


def log_of(scene, statements, count):
    """Show a log of `count` entries that begins with these statements."""
    entries = [entry_of(raw) for raw in statements]
    log = LyingLog([*entries, *some_entries(count - len(entries))])
    scene.server.show(log)
    scene.server.statements(PUBLIC, list(enumerate(statements)))
    return log


async def test_a_copy_has_the_logs_files_and_grows_with_it(scene, copying):
    one, other = bundle(), bundle("n2")
    log = log_of(scene, [one], 300)
    await copying.step()
    await copying.whole(log, 300)
    assert copying.listed() == [one]
    log.entries += [entry_of(other), *some_entries(400, "more")]
    scene.server.show(log)
    scene.server.statements(PUBLIC, [(0, one), (300, other)])
    scene.server.asked.clear()
    await copying.step()
    await copying.whole(log, 701)
    assert copying.listed() == [one, other]
    assert "tile/entries/000" not in scene.server.asked  # nothing twice


async def test_what_clients_no_longer_need_is_left_out(scene, copying):
    live, old, ended = bundle(), bundle("old", NOW + 1), bundle("ended", NOW + 2)
    log_of(scene, [live, old, revocation(live), ended, revocation(ended)], 10)
    await copying.step()
    assert len(copying.listed()) == 5
    copying.now = NOW + 2
    await copying.step()
    assert [entry_of(raw) for raw in copying.listed()] == [
        entry_of(live),
        entry_of(revocation(live)),
    ]


async def test_a_log_at_rest_is_shown_under_its_newest_cosignatures(scene, copying):
    log = log_of(scene, [bundle()], 5)
    await copying.step()
    scene.server.show(log, time_s=TIME + 120)
    await copying.step()
    assert copying.shown()[0] == scene.server.files["checkpoint"]


@pytest.mark.parametrize("path", ["tile/entries/000.p/5", "tile/entries/000"])
async def test_entries_that_do_not_lead_to_the_signed_root_are_not_shown(scene, copying, path):
    log = log_of(scene, [bundle()], 5)
    scene.server.files.pop(path, None)
    scene.server.files["tile/entries/000.p/5"] = LyingLog(some_entries(5, "other")).files()[
        "tile/entries/000.p/5"
    ]
    error = await copying.refused()
    assert error.code is Code.BAD_PROOF
    scene.server.show(log)
    await copying.step()
    await copying.whole(log, 5)


async def test_a_log_that_forks_or_goes_back_changes_nothing_that_is_shown(scene, copying):
    log = log_of(scene, [bundle()], 20)
    await copying.step()
    scene.server.show(log, 10)
    assert (await copying.refused()).code is Code.NOT_WITNESSED
    other = LyingLog(some_entries(25, "other"))
    scene.server.files = {}
    scene.server.show(other)
    assert isinstance(await copying.refused(), CounterfoilError)


async def test_statements_that_the_tree_does_not_hold_are_not_shown(scene, copying):
    log_of(scene, [bundle()], 5)
    scene.server.statements(PUBLIC, [(0, bundle("another"))])
    assert (await copying.refused()).code is Code.BAD_PROOF


async def test_a_damaged_copy_says_so(scene, copying):
    log_of(scene, [bundle()], 5)
    await copying.step()
    (tile,) = (copying.folder / "tile" / "0").rglob("5")
    tile.write_bytes(bytes(5 * 32))
    error = await copying.refused()
    assert error.code is Code.CORRUPT
    assert "empty folder" in error.remedy


async def test_partial_tiles_of_old_checkpoints_do_not_pile_up(scene, copying):
    log = log_of(scene, [bundle()], 1)
    for number in range(WIDTHS_KEPT + 5):
        log.entries += some_entries(1, f"salt {number}")
        scene.server.show(log)
        await copying.step()
    widths = sorted(int(path.name) for path in (copying.folder / "tile/0/000.p").iterdir())
    assert widths == list(range(7, WIDTHS_KEPT + 7))


async def mirror_command(scene, folder, *more):
    """Run `counterfoil log mirror`; return its exit code and the objects that it printed."""
    program = (
        "import sys; from shared.runtime.cli import run; from audit_layer.commands.monitor import mirror;"
        " sys.exit(run(mirror, sys.argv[1:]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, scene.url, *KEYS, "--threshold=2", f"--to={folder}",
        f"--ca={scene.ca}", "--json", *more, cwd=ROOT, stdout=PIPE,
    )  # fmt: skip
    scene.processes.append(process)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, [json.loads(line) for line in out.splitlines()]


async def test_the_command_copies_once_and_its_exit_code_says_what_happened(scene, tmp_path):
    folder = tmp_path / "copy"
    log = log_of(scene, [bundle()], 5)
    code, (told,) = await mirror_command(scene, folder, "--once")
    assert (code, told["size"]) == (0, 5)
    assert (folder / "directory.json").stat().st_mode & 0o777 == 0o644  # a web server reads it
    scene.server.files["checkpoint"] = LyingLog(some_entries(6, "other")).note()
    code, (told,) = await mirror_command(scene, folder, "--once")
    assert code == 3
    assert told["error"] in {"BAD_PROOF", "MALFORMED", "NOT_FOUND"}
    scene.server.show(log)
    scene.server.answers["checkpoint"] = Response(status_code=503)
    code, (told,) = await mirror_command(scene, folder, "--once")
    assert (code, told["error"]) == (5, "UNAVAILABLE")
