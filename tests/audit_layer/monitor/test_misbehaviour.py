"""What a log can do wrong, once each, made by doubles that announce themselves."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from shared.runtime.tls import client_context
from shared.translog.policy import verify_witnessed
from shared.translog.tree import node_hash
from tests.audit_layer.log.world import policy_of
from tests.audit_layer.monitor.conftest import Scene
from tests.audit_layer.monitor.doubles import (
    ANNOUNCEMENT,
    NAMES,
    POLICY,
    TIME,
    LyingLog,
    kept,
    some_entries,
)

HONEST = LyingLog(some_entries(700))
OTHER = LyingLog([*some_entries(200), *some_entries(600, "other")])
"""The same first 200 entries, then others."""


async def following(scene: Scene, size: int = 300) -> Scene:
    """A scene whose monitor has verified the honest log at a size."""
    scene.server.show(HONEST, size)
    assert (await scene.look()).findings == 0
    assert scene.verified_size == size
    return scene


def evidence(scene: Scene, at: int = 0) -> dict[str, Any]:
    return kept(scene.heard.of("finding")[at]["evidence"])


async def test_the_doubles_say_that_they_are_doubles(scene: Scene):
    async with httpx.AsyncClient(verify=client_context(scene.ca), trust_env=False) as http:
        answer = await http.get(f"{scene.url}/checkpoint")
    assert answer.headers["x-test-double"] == ANNOUNCEMENT["x-test-double"]


# -- forks and rollbacks ---------------------------------------------------------------------------


async def test_two_roots_for_one_size_are_a_fork_and_both_notes_are_kept(scene: Scene):
    await following(scene)
    scene.server.show(OTHER, 300)
    assert (await scene.look()).findings == 1
    assert scene.heard.kinds() == ["fork"]
    proof = evidence(scene)
    roots = {verify_witnessed(proof[name], POLICY).checkpoint.root for name in ("first", "second")}
    assert roots == {HONEST.checkpoint(300).root, OTHER.checkpoint(300).root}
    assert scene.verified_size == 300


@pytest.mark.parametrize("size", [301, 512, 700])
async def test_a_larger_checkpoint_that_does_not_extend_is_a_fork_with_a_proof(
    scene: Scene, size: int
):
    await following(scene)
    scene.server.files.clear()
    scene.server.show(OTHER, size)
    await scene.look()
    assert scene.heard.kinds() == ["fork"]
    proof = evidence(scene)
    later = verify_witnessed(proof["second"], POLICY).checkpoint
    parts = {
        tuple(map(int, name.split("/"))): bytes.fromhex(h) for name, h in proof["nodes"].items()
    }
    # What anybody can do with the evidence: the same subtrees give the later root and deny the earlier.
    assert _root(parts, size) == later.root
    assert _root({p: h for p, h in parts.items() if (p[1] + 1) << p[0] <= 300}, 300) != (
        verify_witnessed(proof["first"], POLICY).checkpoint.root
    )
    assert scene.verified_size == 300


def _root(parts: dict[tuple[int, ...], bytes], size: int) -> bytes:
    """RFC 9162's definition over given subtrees."""

    def of(start: int, end: int) -> bytes:
        level = (end - start).bit_length() - 1
        if end - start == 1 << level and (level, start >> level) in parts:
            return parts[level, start >> level]
        split = start + (1 << ((end - start - 1).bit_length() - 1))
        return node_hash(of(start, split), of(split, end))

    return of(0, size)


async def test_a_smaller_checkpoint_of_the_same_tree_is_a_rollback(scene: Scene):
    await following(scene)
    scene.server.files["checkpoint"] = HONEST.note(299)
    await scene.look()
    assert scene.heard.kinds() == ["rollback"]
    assert scene.verified_size == 300
    scene.server.show(HONEST, 400)
    assert (await scene.look()).findings == 0
    assert scene.verified_size == 400


async def test_a_smaller_checkpoint_of_another_tree_is_a_fork(scene: Scene):
    await following(scene)
    scene.server.files["checkpoint"] = OTHER.note(299)
    await scene.look()
    assert scene.heard.kinds() == ["fork"]
    assert evidence(scene)["nodes"]


async def test_a_finding_is_reported_once_and_evidence_is_never_overwritten(scene: Scene):
    await following(scene)
    scene.server.files["checkpoint"] = OTHER.note(300)
    for _ in range(3):
        assert (await scene.look()).findings == 1
    assert scene.heard.kinds() == ["fork"]
    before = evidence(scene)
    again = LyingLog([*some_entries(200), *some_entries(100, "third")])
    scene.server.files["checkpoint"] = again.note(300)
    await scene.look()
    assert scene.heard.kinds() == ["fork", "fork"]
    assert evidence(scene, 0) == before
    assert evidence(scene, 1)["second"] != before["second"]


async def test_after_a_fork_the_verified_branch_is_still_followed(scene: Scene):
    await following(scene)
    scene.server.files["checkpoint"] = OTHER.note(300)
    await scene.look()
    scene.server.show(HONEST, 500)
    await scene.look()
    assert scene.verified_size == 500


# -- files -----------------------------------------------------------------------------------------

FILES = ["tile/entries/000", "tile/entries/002.p/188", "tile/0/001", "tile/0/002.p/188", "tile/1/000.p/2"]  # fmt: skip


@pytest.mark.parametrize("path", FILES)
async def test_one_changed_bit_in_any_file_is_damage_until_it_is_repaired(scene: Scene, path: str):
    scene.server.show(HONEST, 700)
    right = scene.server.files[path]
    scene.server.files[path] = right[:-1] + bytes([right[-1] ^ 1])
    for _ in range(2):
        assert (await scene.look()).findings == 1
    assert scene.heard.kinds() == ["damage"]
    assert scene.verified_size == -1
    scene.server.files[path] = right
    assert (await scene.look()).findings == 0
    assert scene.verified_size == 700


@pytest.mark.parametrize("path", FILES)
async def test_any_file_that_is_not_served_is_missing(scene: Scene, path: str):
    scene.server.show(HONEST, 700)
    del scene.server.files[path]
    await scene.look()
    assert scene.heard.kinds() == ["missing"]
    assert path in scene.heard.of("finding")[0]["detail"]
    assert scene.verified_size == -1


@pytest.mark.parametrize("change", [-1, 1, 10**6])
async def test_a_file_of_another_length_is_damage(scene: Scene, change: int):
    scene.server.show(HONEST, 700)
    right = scene.server.files["tile/0/001"]
    scene.server.files["tile/0/001"] = right[:change] if change < 0 else right + bytes(change)
    await scene.look()
    assert scene.heard.kinds() == ["damage"]


async def test_entries_and_tiles_that_agree_but_not_with_the_signed_root_are_damage(scene: Scene):
    scene.server.show(OTHER, 700)
    scene.server.files["checkpoint"] = HONEST.note(700)
    await scene.look()
    assert scene.heard.kinds() == ["damage"]
    assert "do not lead to the root" in scene.heard.of("finding")[0]["detail"]
    signed = verify_witnessed(evidence(scene)["second"], POLICY).checkpoint
    assert signed == HONEST.checkpoint(700)


async def test_an_entry_changed_before_the_verified_size_is_found_in_its_bundle(scene: Scene):
    await following(scene)
    scene.server.show(HONEST, 400)
    data = bytearray(scene.server.files["tile/entries/001.p/144"])
    data[2] ^= 1  # entry 256, verified long ago
    scene.server.files["tile/entries/001.p/144"] = bytes(data)
    await scene.look()
    assert scene.heard.kinds() == ["damage"]
    assert scene.verified_size == 300


# -- signatures and cosignatures -------------------------------------------------------------------


async def test_a_checkpoint_without_the_quorum_is_a_finding(scene: Scene):
    scene.server.show(HONEST, 300, names=NAMES[:1])
    await scene.look()
    assert scene.heard.kinds() == ["quorum"]
    assert scene.verified_size == -1


@pytest.mark.parametrize("line", [2, 3])
async def test_a_checkpoint_that_lacks_either_of_the_logs_signatures_is_a_finding(
    scene: Scene, line: int
):
    scene.server.show(HONEST, 300)
    lines = scene.server.files["checkpoint"].split(b"\n")
    assert lines[3] == b""
    del lines[2 + line]  # 4: Ed25519, 5: ML-DSA-44
    scene.server.files["checkpoint"] = b"\n".join(lines)
    await scene.look()
    assert scene.heard.kinds() == ["signature"]


async def test_a_forged_size_breaks_the_signature(scene: Scene):
    scene.server.show(HONEST, 300)
    note = scene.server.files["checkpoint"]
    scene.server.files["checkpoint"] = note.replace(b"\n300\n", b"\n301\n")
    await scene.look()
    assert scene.heard.kinds() == ["signature"]
    assert "\n301\n" in evidence(scene)["note"]


async def test_a_witness_of_another_name_counts_for_nothing(scene: Scene):
    scene.policy = policy_of(("w1.example", "w9.example"), 2)
    scene.server.show(HONEST, 300)
    await scene.look()
    assert scene.heard.kinds() == ["quorum"]


async def test_a_page_that_is_not_a_checkpoint_is_a_finding(scene: Scene):
    scene.server.files["checkpoint"] = b"<html>\x1b[31mwelcome</html>"
    await scene.look()
    assert scene.heard.kinds() == ["malformed"]


# -- staleness -------------------------------------------------------------------------------------


async def test_cosignatures_older_than_the_limit_make_the_log_stale_once_per_standstill(
    scene: Scene,
):
    await following(scene)
    scene.now_s = TIME + 100
    assert (await scene.look(stale_after_s=100)).findings == 0
    scene.now_s = TIME + 101
    for _ in range(2):
        assert (await scene.look(stale_after_s=100)).findings == 1
    assert scene.heard.kinds() == ["stale"]
    assert (await scene.look(stale_after_s=0)).findings == 0
    scene.server.files["checkpoint"] = HONEST.note(300, time_s=TIME + 50)
    assert (await scene.look(stale_after_s=100)).findings == 0  # the same tree, vouched for anew
    scene.now_s = TIME + 200
    await scene.look(stale_after_s=100)
    assert scene.heard.kinds() == ["stale", "stale"]


async def test_cosignatures_from_the_future_do_not_keep_a_log_fresh(scene: Scene):
    scene.server.show(HONEST, 300, time_s=TIME + 10**9)
    assert (await scene.look(stale_after_s=100)).findings == 0
    scene.now_s += 101
    assert (await scene.look(stale_after_s=100)).findings == 1


async def test_a_log_that_cannot_be_verified_grows_stale_however_it_hides(scene: Scene):
    await following(scene)
    scene.server.show(HONEST, 400, time_s=TIME + 500)
    scene.server.answers["tile/0/001.p/144"] = Response(status_code=503)
    scene.now_s = TIME + 600
    met = await scene.look(stale_after_s=100)
    assert len(met.troubles) == 1
    assert scene.heard.kinds() == ["stale"]


# -- the network -----------------------------------------------------------------------------------


def endless(_: Request) -> Response:
    async def body():
        while True:
            yield bytes(65536)
            await asyncio.sleep(0)

    return StreamingResponse(body())


def trickle(_: Request) -> Response:
    async def body():
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    return StreamingResponse(body())


@pytest.mark.parametrize(
    ("path", "kind"),
    [("checkpoint", "malformed"), ("tile/0/000", "damage"), ("tile/entries/000", "damage")],
)
async def test_a_body_without_end_is_cut_off_and_a_finding(scene: Scene, path: str, kind: str):
    scene.server.show(HONEST, 300)
    scene.server.answers[path] = endless
    async with asyncio.timeout(10):
        await scene.look()
    assert scene.heard.kinds() == [kind]


async def test_a_body_that_trickles_is_given_up_and_is_trouble(scene: Scene):
    scene.timeout_s = 0.5
    scene.server.show(HONEST, 300)
    scene.server.answers["checkpoint"] = trickle
    async with asyncio.timeout(5):
        met = await scene.look()
    assert (met.findings, len(met.troubles)) == (0, 1)


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000"])
async def test_a_redirect_is_never_followed(scene: Scene, path: str):
    scene.server.show(HONEST, 300)
    scene.server.files["elsewhere"] = scene.server.files[path]
    scene.server.answers[path] = RedirectResponse("/elsewhere")
    met = await scene.look()
    assert (met.findings, len(met.troubles)) == (0, 1)
    assert "redirect" in met.troubles[0]
    assert "elsewhere" not in scene.server.asked


async def test_a_compressed_body_is_refused_unopened(scene: Scene):
    scene.server.answers["checkpoint"] = Response(b"\x1f\x8b", headers={"content-encoding": "gzip"})
    met = await scene.look()
    assert (met.findings, len(met.troubles)) == (0, 1)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_an_answer_that_says_later_is_trouble_and_not_a_finding(scene: Scene, status: int):
    await following(scene)
    scene.server.answers["checkpoint"] = Response(status_code=status)
    met = await scene.look()
    assert (met.findings, len(met.troubles)) == (0, 1)
    assert scene.heard.of("trouble")


async def test_a_checkpoint_that_vanishes_is_missing_and_one_that_never_was_is_not(scene: Scene):
    met = await scene.look()
    assert (met.findings, len(met.troubles)) == (0, 1)
    await following(scene)
    del scene.server.files["checkpoint"]
    await scene.look()
    assert scene.heard.kinds() == ["missing"]
