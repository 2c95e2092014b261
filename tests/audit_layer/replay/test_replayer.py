"""The replay process may die, hang or babble at any moment: its worker sees an error, and never a verdict."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from audit_layer.replay import child
from audit_layer.replay.case import Case
from audit_layer.replay.child import Bench
from audit_layer.replay.framing import MAX_ANSWER, MAX_FRAMES, read_message, write_case
from audit_layer.replay.lease import ENOUGH
from audit_layer.replay.replayer import Replayer, ReplayFailedError, _parse
from shared.codec import cbor
from shared.envelope.shape import MAX_FRAME
from shared.model.cpu import CpuBackend, arithmetics_for
from shared.model.profile import numeric_profile, profile_id
from shared.model.root import model_root
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.verdicts import Reason
from shared.verification.judgement import Judgement
from tests.audit_layer.replay import fake_child
from tests.audit_layer.replay.inference import H, Story, make_case
from tests.audit_layer.replay.waiting import until
from tests.hostile.tiny_node import GeneratingArithmetic
from tests.shared.model.tiny import BACKEND, END, write_folder

CASE = make_case()
PASSED = Judgement(Reason.EXACT, {"blocks": 1})


def replayer(command: Sequence[str], timeout_s: float = 60.0) -> Replayer:
    made = Replayer([], threads=1, timeout_s=timeout_s)
    made._command = list(command)
    return made


def test_a_checkpoint_that_cannot_be_read_is_reported_for_every_case(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "config.json")
    asked, answered = BytesIO(), BytesIO()
    for _ in range(2):
        write_case(asked, CASE, tuple(CASE.frames))
    asked.seek(0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=asked))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=answered))
    child.main([str(tmp_path)])
    answered.seek(0)
    for _ in range(2):
        with pytest.raises(CounterfoilError, match=r"config\.json cannot be read") as caught:
            _parse(read_message(answered, MAX_ANSWER) or b"")
        assert caught.value.code is Code.INTERNAL


def child_of(made: Replayer) -> "subprocess.Popen[bytes]":
    assert made._child is not None
    return made._child


def refusal(made: Replayer) -> CounterfoilError:
    with pytest.raises(CounterfoilError) as caught:
        made.judge(CASE)
    return caught.value


def test_cases_are_judged_one_after_the_other_by_one_child():
    with replayer(fake_child.command("pass")) as made:
        first = made.judge(CASE)
        pid = child_of(made).pid
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: made.judge(CASE), range(8)))
        assert [first, *answers] == [PASSED] * 9
        assert child_of(made).pid == pid


def test_a_child_killed_in_mid_case_is_an_error_of_the_worker_and_the_case_is_judged_again(
    tmp_path,
):
    mark = tmp_path / "has the case"
    with replayer(fake_child.command("hang", mark)) as made, ThreadPoolExecutor(1) as pool:
        judging = pool.submit(made.judge, CASE)
        until(mark.exists)
        killed = child_of(made).pid
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(CounterfoilError) as caught:
            judging.result(60)
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.code.value.retryable
        assert made.judge(CASE) == PASSED
        assert child_of(made).pid != killed


def test_a_child_that_takes_too_long_is_killed_and_replaced(tmp_path):
    mark = tmp_path / "has the case"
    mark.touch()
    with replayer(fake_child.command("hang", mark)) as made:
        assert made.judge(CASE) == PASSED  # it runs, and needs none of the time for its start
        slow = child_of(made)
        mark.unlink()
        made._timeout_s = 1
        assert refusal(made).code is Code.UNAVAILABLE
        made._timeout_s = 60
        assert mark.exists()
        assert slow.returncode == -signal.SIGKILL
        assert made.judge(CASE) == PASSED


def test_a_child_that_died_between_two_cases_is_replaced_unnoticed():
    with replayer(fake_child.command("pass")) as made:
        made.judge(CASE)
        child = child_of(made)
        child.kill()
        child.wait()
        assert made.judge(CASE) == PASSED
        assert child_of(made).pid != child.pid
        assert child.stdout is not None
        assert child.stdout.closed


MAYBE = cbor.encode(
    {"judgement": cbor.encode({"outcome": "MAYBE", "reason": "exact", "facts": {}})}
)
BABBLE = {
    "no CBOR": "00000001ff",
    "not a map": "0000000101",
    "nothing of the protocol": "00000001a0",
    "a judgement that is none": "0000000d" + "a1" + "69" + b"judgement".hex() + "4100",
    "a length that nobody believes": "ffffffff",
    "a verdict outside the protocol": f"{len(MAYBE):08x}{MAYBE.hex()}",
}


@pytest.mark.parametrize("name", BABBLE)
def test_a_child_that_answers_nonsense_is_killed_and_nothing_is_judged(name):
    with replayer(fake_child.command(BABBLE[name])) as made:
        assert refusal(made).code is Code.UNAVAILABLE
        assert made._child is None
        made._command = fake_child.command("pass")
        assert made.judge(CASE) == PASSED


def test_an_error_that_the_child_reports_is_not_a_verdict():
    told = cbor.encode({"error": "the model does not load"})
    with replayer(fake_child.command(f"{len(told):08x}{told.hex()}")) as made:
        error = refusal(made)
    assert error.code is Code.INTERNAL
    assert "does not load" in error.detail


def test_a_child_that_cannot_start_is_an_error_of_the_worker():
    with replayer([sys.executable, "-c", "raise SystemExit(3)"]) as made:
        assert refusal(made).code is Code.UNAVAILABLE


def test_closing_ends_the_child():
    made = replayer(fake_child.command("pass"))
    made.judge(CASE)
    child = child_of(made)
    made.close()
    made.close()
    assert child.poll() == -signal.SIGKILL


# -- speeds -------------------------------------------------------------------------------------------------

KIND = (b"model", b"profile")


def test_replays_are_counted_once_the_model_is_loaded_and_again_after_another_child():
    with replayer(fake_child.command("longest")) as made:
        for _ in range(ENOUGH):
            made.judge(CASE, kind=KIND)
        assert made.speeds.predicted_s(KIND, 1000) is None  # the first one loaded the model
        made.judge(CASE, kind=KIND)
        assert made.speeds.predicted_s(KIND, 1000) is not None
        seen = len(made.speeds._seen[KIND])
        child_of(made).kill()
        child_of(made).wait()
        made.judge(CASE, kind=KIND)
        assert len(made.speeds._seen[KIND]) == seen
        made.judge(CASE, kind=KIND)
        assert len(made.speeds._seen[KIND]) == seen + 1


def test_what_was_not_replayed_is_no_speed():
    """Else whoever sends cases that end early would make every long one look short."""
    with replayer(fake_child.command("longest")) as made:
        for _ in range(2):
            judged = made.judge(CASE, kind=KIND, longest=fake_child.TOKENS - 1)
            assert judged.reason is Reason.UNREPLAYABLE
        made.judge(CASE, kind=KIND)
        assert KIND not in made.speeds._seen


# -- the real process ---------------------------------------------------------------------------------------


def honest_case(
    folder: Path,
    backend: CpuBackend = BACKEND,
    dtype: str = "float32",
    claimed: bytes | None = None,
    added: tuple[str, ...] = (),
) -> Case:
    """A request that ran to its token budget; seeds are random, so a few ends of text are passed over."""
    profile = claimed or profile_id(numeric_profile(dtype, backend))
    arithmetic = GeneratingArithmetic(folder, backend, profile)
    root = model_root(folder)
    story = Story(
        profile=arithmetic.profile,
        receipt_changes={"model_root": root},
        header_model=root,
        max_tokens=4,
        added=added,
    )
    for _ in range(50):
        case = make_case(story, arithmetic=arithmetic)
        if END not in arithmetic.generated:
            return case
    raise AssertionError("every text ended early")


def test_a_case_beyond_64_mib_is_judged_to_its_last_step(tmp_path):
    """All of its frames belong to the receipt; what they say beyond the tokens is the node's own."""
    folder = write_folder(tmp_path / "model")
    large = honest_case(folder, added=("x" * 700_000,) * 160)
    assert sum(map(len, large.frames)) > 100 * 2**20
    honest = honest_case(folder)
    with Replayer([folder], threads=1, timeout_s=100) as made:
        judged = made.judge(large)
        assert (judged.outcome, judged.reason) == ("FAIL", "text")
        assert judged.decisive is not None
        assert judged.decisive.difference is not None
        assert judged.decisive.difference.where == {"frame": 2}
        child = child_of(made)
        assert made.judge(honest).reason is Reason.EXACT
        assert child_of(made) is child


@pytest.mark.parametrize("frames", [(bytes(MAX_FRAME + 1),), (b"",) * (MAX_FRAMES + 1)])
def test_a_case_beyond_the_protocols_bounds_is_our_own_error_and_reaches_no_child(frames):
    with replayer(fake_child.command("pass")) as made:
        with pytest.raises(ReplayFailedError, match="is no receipt's case") as caught:
            made.judge(replace(CASE, frames=frames))
        assert caught.value.code is Code.INTERNAL
        assert made._child is None


def test_an_auditor_computes_every_arithmetic_and_no_profile_that_it_does_not_know(tmp_path):
    folder = write_folder(tmp_path / "model", dtype="bfloat16")
    bench = Bench([folder], threads=1)
    for name in arithmetics_for("bfloat16"):
        case = honest_case(folder, CpuBackend(arithmetic=name), "bfloat16")
        assert bench.judge(case).reason is Reason.EXACT, name
    assert [name for _, name in bench._loaded] == ["chain-1", "pairs-32", "fused-16", "fused-8"]
    strange = honest_case(folder, CpuBackend(), "bfloat16", claimed=bytes(32))
    assert bench.judge(strange).reason is Reason.PROFILE


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_fifo_in_a_files_place_is_an_error_in_every_case(tmp_path, name):
    folder = write_folder(tmp_path / "model")
    case, bench = honest_case(folder), Bench([folder], threads=1)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    for _ in range(2):
        with pytest.raises(CounterfoilError, match=name) as caught:
            bench.judge(case)
        assert caught.value.code is Code.CONFIGURATION


def test_a_folder_that_changed_after_its_root_was_computed_judges_nothing(tmp_path):
    """An honest node would be found guilty by other weights."""
    folder = write_folder(tmp_path / "model")
    case, bench = honest_case(folder), Bench([folder], threads=1)
    assert len(bench._folders) == 1
    write_folder(folder, rms_norm_eps=1e-3)
    for _ in range(2):
        with pytest.raises(CounterfoilError, match="changed after") as caught:
            bench.judge(case)
        assert caught.value.code is Code.CORRUPT


def test_a_receipt_for_a_model_that_nobody_has_fails_unless_the_request_asks_for_it(tmp_path):
    bench = Bench([write_folder(tmp_path / "model")], threads=1)
    for asked, reason in ((bytes(32), Reason.UNAVAILABLE), (H, Reason.MODEL)):
        story = Story(header_model=asked, receipt_changes={"model_root": bytes(32)})
        assert bench.judge(make_case(story)).reason is reason
    junk = replace(
        make_case(Story(header_model=H, receipt_changes={"model_root": bytes(32)})),
        envelope=b"junk",
    )
    assert bench.judge(junk).reason is Reason.UNAVAILABLE


def test_the_real_process_judges_is_killed_in_mid_case_begins_again_and_ends_with_its_input(
    tmp_path,
):
    folder = write_folder(tmp_path / "model")
    honest = honest_case(folder)
    with Replayer([folder], threads=1, timeout_s=100) as made, ThreadPoolExecutor(1) as pool:
        judged = made.judge(honest)
        assert (judged.outcome, judged.reason) == ("PASS", "exact")
        unknown = made.judge(CASE)
        assert (unknown.outcome, unknown.reason) == ("INCONCLUSIVE", "unavailable")
        child = child_of(made)
        os.kill(child.pid, signal.SIGSTOP)  # it has the case and cannot have answered it
        judging = pool.submit(made.judge, honest)
        until(made._lock.locked)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(CounterfoilError) as caught:
            judging.result(60)
        assert caught.value.code is Code.UNAVAILABLE
        assert made.judge(honest) == judged
        again = child_of(made)
        assert again.pid != child.pid
        assert again.stdin is not None
        again.stdin.close()  # as the kernel does for a worker that is killed
        assert again.wait(60) == 0
