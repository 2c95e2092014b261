"""The benchmark of the log runs, and what it says can be read by programs.

Promised: `python -m benchmarks.log --quick --json FILE` drives every workload against the real server and leaves a file with
every field that `docs/benchmarks-log.md` names. The statements it submits are valid, numbered without gaps and chained. No
figure is judged here: on a shared machine a time promises nothing.
"""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from audit_layer.trail.admission import Admitted
from audit_layer.trail.columns import order_values, receipt_values, statement_values
from benchmarks.log import __main__ as command
from benchmarks.log import bulk
from benchmarks.log.disk import Occupied, bytes_on_disk, of_room
from benchmarks.log.figures import aims, called, kept_up, one_by_one, rate, ratios, sides
from benchmarks.log.load import Answer, LoadError, shared_out
from benchmarks.log.plot import plot
from benchmarks.log.profiled import group, report
from benchmarks.log.rounds import verified
from benchmarks.log.size import FULL, QUICK, WORKLOADS
from benchmarks.log.statements import Source, new_seed
from benchmarks.log.table import render
from shared.runtime.keys import public_bytes
from shared.statements.cose import entry_of
from shared.statements.disclosures import DisclosureRequest
from shared.statements.receipts import NO_RECEIPT, Receipt
from shared.translog.cose_receipt import issue_receipt
from shared.translog.tree import leaf_hash

SPREAD = {"median", "low", "high", "rounds"}
TIMES = {"p50_ms", "p99_ms", "max_ms"}
TINY = dataclasses.replace(
    QUICK,
    closed={1: 3, 4: 8},
    watched=1,
    per_call=(16,),
    batched=64,
    batch=(64,),
    bare=256,
    admitted=64,
    proven=300,
    proofs=10,
    growth=(100, 1_500),
    growth_trail=(100, 1_500),
    growth_batches=1,
    growth_proofs=5,
    growth_ticks=1,
)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_workload_runs_against_the_real_server_and_leaves_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(command, "QUICK", TINY)
    file, picture, profile = (tmp_path / name for name in ("found.json", "bars.svg", "profile.txt"))

    ended = CliRunner().invoke(
        command.main,
        ["--quick", "--json", str(file), "--plot", str(picture), "--profile", str(profile)],
        catch_exceptions=False,
    )

    assert ended.exit_code == 0, ended.output
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["benchmark"], found["version"]) == ("log", 1)
    assert found["postgres"]["fsync"] == found["postgres"]["synchronous_commit"] == "on"
    assert {"processor", "cores", "python", "load_before"} <= set(found["machine"])
    assert set(WORKLOADS) <= set(found)
    assert [row["waiters"] for row in found["closed"]["waiters"]] == [1, 4]
    for row in found["closed"]["waiters"]:
        assert set(row) == {"waiters", "per_s"} | TIMES
    assert found["closed"]["witnessed"]["proofs_verified"] == 1
    count = found["closed"]["receipts_verified"]
    assert count == 11 if found["receipts"] else count is None
    (batch,) = found["batches"]
    assert (batch["batch"], set(batch["call"])) == (16, TIMES)
    (bulk_row,) = found["bulk"]
    for spread in (batch["receipts"], batch["singles"], bulk_row["bare"], bulk_row["with_trail"]):
        assert set(spread) == SPREAD
        assert spread["low"] == spread["high"] == spread["median"] > 0
    assert found["bytes"]["entries"] == 64
    assert set(found["proofs"]) == {"size", "by_index", "by_entry", "tiles"}
    for rows in found["growth"].values():
        assert rows[0]["ratios"] == dict.fromkeys(rows[0]["ratios"], 1.0)
        assert rows[0]["size"] == 100
        assert rows[1]["size"] >= 1_500
    assert all(row["met"] is not None for row in found["aims"] if "64 waiters" not in row["aim"])
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    assert "sequencer" in profile.read_text(encoding="utf-8")


def test_what_is_not_a_workload_is_refused():
    refused = CliRunner().invoke(command.main, ["--only", "bulk,nothing"])
    assert refused.exit_code == 2
    assert "nothing; known: closed, batches" in refused.output


def test_receipts_are_admitted_numbered_without_gaps_and_chained():
    source = Source(new_seed(), 3)
    signed = [*source.receipts(2), *source.receipts(2)]

    receipts = [item.value for item in source.admitted(signed)]

    assert all(isinstance(receipt, Receipt) for receipt in receipts)
    assert [(each.node_sequence, each.number, each.tenant) for each in receipts] == [
        (number, number, "tenant-3") for number in range(4)
    ]
    entries = [entry_of(raw) for raw, _ in signed]
    assert [each.previous for each in receipts] == [NO_RECEIPT, *entries[:3]]
    assert [each.order for each in receipts] == [entry_of(order) for _, order in signed]


def test_statements_of_one_signature_are_admitted_and_never_the_same():
    seed = new_seed()
    here, there = Source(seed, 0), Source(seed, 1)
    signed = [*here.singles(2), *here.singles(1), *there.singles(3)]

    admitted = here.admitted(signed)  # one authority for all places

    assert all(isinstance(item.value, DisclosureRequest) for item in admitted)
    assert len({item.statement.entry for item in admitted}) == 6


def test_a_source_made_in_another_process_has_the_same_keys():
    seed = new_seed()
    assert Source(seed, 1).parties() == Source(seed, 1).parties()
    assert Source(seed, 1).parties()[:2] != Source(seed, 2).parties()[:2]
    assert Source(seed, 1).parties()[2] == Source(seed, 2).parties()[2]


def test_bare_entries_continue_where_they_ended_and_are_numbered_within_their_domains():
    seed = new_seed()
    together = bulk.bare(seed, 0, 40)
    assert [*bulk.bare(seed, 0, 17), *bulk.bare(seed, 17, 23)] == together
    assert len({item.entry for item in together}) == 40
    by_issuer: dict[bytes, list[int | None]] = {}
    for item in together:
        by_issuer.setdefault(item.issuer, []).append(item.issuer_seq)
    assert list(by_issuer.values()) == [list(range(5))] * bulk.ISSUERS


def test_copies_have_rows_of_their_own():
    made = bulk.copies(Source(new_seed(), 0))
    items = [item.attachment for item in (*made(0, 2), *made(2, 2))]
    assert all(isinstance(item, Admitted) for item in items)
    rows = [
        (
            statement_values(item, index, 0, item.statement.raw),
            order_values(item, item.order.raw),
            receipt_values(item, index),
        )
        for index, item in enumerate(items)
    ]
    for column in ("entry", "log_index"):
        assert len({row[0][column] for row in rows}) == 4
        assert [row[0][column] for row in rows] == [row[2][column] for row in rows]
    assert [row[1]["entry"] for row in rows] == [row[2]["order_entry"] for row in rows]
    assert len({row[1]["entry"] for row in rows}) == 4
    assert [row[2]["node_sequence"] for row in rows] == list(range(4))


def test_work_is_cut_and_shared_out_without_loss():
    assert shared_out(7, 2) == [4, 3]
    assert shared_out(1, 2) == [1, 0]
    items = bulk.bare(b"", 0, 10)
    assert [len(part) for part in bulk.cut(items, 4)] == [4, 4, 2]


def test_a_rate_counts_from_the_first_call_of_any_process_to_the_last_answer_of_any():
    answers = [Answer([0.5, 0.5], 10.0, 11.0), Answer([1.0, 1.0], 10.5, 12.5)]
    assert rate(answers) == 4 / 2.5
    assert rate(answers, 100) == 400 / 2.5
    found = called([answers, answers])
    assert found["per_s"]["median"] == 1.6
    assert (found["p50_ms"]["median"], found["max_ms"]["median"]) == (500.0, 1000.0)
    assert one_by_one([[0.1, 0.3]])["per_s"]["median"] == 5.0


def test_ratios_of_sides_are_formed_within_a_round():
    (row,) = sides({(64, "a"): [10.0, 40.0, 90.0], (64, "b"): [10.0, 20.0, 30.0]}, "a", "b")
    assert row["batch"] == 64
    assert row["ratio"]["rounds"] == [1.0, 2.0, 3.0]
    assert (row["a"]["median"], row["b"]["median"]) == (40.0, 20.0)


def test_cose_receipts_are_verified_and_a_false_one_ends_the_run():
    key, entry = Ed25519PrivateKey.generate(), bytes(32)
    receipt = issue_receipt(entry, 0, 1, [], leaf_hash(entry), key=key)
    kept = Answer(kept=[(entry, receipt), (entry, receipt)])

    assert verified([kept, Answer()], public_bytes(key)) == 2
    for false in ((b"\1" * 32, receipt), (entry, b"")):
        with pytest.raises(LoadError, match="does not verify"):
            verified([kept, Answer(kept=[false])], public_bytes(key))


def test_a_grown_log_keeps_up_within_a_fifth_and_may_be_faster():
    assert ratios(grown(1_000, 10, 5), grown(10, 20, 4)) == {
        "entries_per_s": 0.5,
        "tick_ms": 1.25,
        "by_index_p50": 1.25,
        "by_index_p99": 1.25,
        "by_entry_p50": 1.25,
        "by_entry_p99": 1.25,
    }
    assert kept_up("entries_per_s", 0.8)
    assert kept_up("entries_per_s", 2.0)
    assert not kept_up("entries_per_s", 0.79)
    assert kept_up("tick_ms", 1.2)
    assert not kept_up("tick_ms", 1.21)


def test_aims_are_met_missed_or_not_measured():
    found = {
        "bulk": [{"batch": 64, "bare": median(19_999)}, {"batch": 256, "bare": median(20_000)}],
        "closed": {"waiters": [{"waiters": 1, "p50_ms": median(9.9), "p99_ms": median(10.0)}]},
        "growth": {"log": [grown(10, 20, 4), grown(100, 10, 4) | {"ratios": {"tick_ms": 1.0}}]},
    }
    assert [(row["value"], row["met"]) for row in aims(found)] == [
        (20_000, True),
        (None, None),
        (None, None),
        (9.9, True),
        (10.0, False),
        (1.0, True),
    ]
    assert [row["met"] for row in aims({})] == [None] * 5


def test_a_table_says_what_was_measured_and_marks_the_aims():
    found = {
        "machine": {
            "processor": "x",
            "cores": 2,
            "instructions": "y",
            "python": "3",
            "torch": "2",
            "load_before": 0.0,
        },
        "postgres": {"fsync": "on"},
        "settings": {"rounds": 1},
        "context": command.CONTEXT,
        "bulk": [
            {
                "batch": 1024,
                "bare": median(25_000),
                "with_trail": median(9_000),
                "ratio": median(2.78),
            }
        ],
    }
    found["aims"] = aims(found)
    console = Console(width=132, record=True, file=io.StringIO())
    console.print(render(found))
    shown = console.export_text()
    assert "fsync on" in shown
    assert "25,000 (25,000 to 25,000)" in shown
    assert "≥ 20,000 ✓" in shown
    assert "waiters" not in shown
    assert "1,024" in plot(found)


def test_bytes_of_a_folder_and_of_a_room(tmp_path: Path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(b"x" * 5000)
    before = bytes_on_disk(tmp_path)
    (tmp_path / "b").write_bytes(b"y" * 10)
    grown_by = bytes_on_disk(tmp_path) - before
    assert (before.length, before.files) == (5000, 1)
    assert (grown_by.length, grown_by.files) == (10, 1)
    assert Occupied(3, 2, 1) - Occupied(1, 1, 1) == Occupied(2, 1, 0)
    assert of_room({"log_a": 1, "log_b": 2, "trail_a": 4}, "log") == 3


def test_a_profile_counts_threads_of_a_pool_together_and_excludes_waiting():
    assert [group(name) for name in ("use-case_3", "sequencer", "Thread-7 (run)")] == [
        "use-case",
        "sequencer",
        "Thread",
    ]
    stacks = {
        ("use-case", "thread._worker", "cbor.decode"): 3,
        ("use-case", "thread._worker", "cose.verify"): 1,
        ("use-case", "thread._worker"): 100,
        ("sequencer", "threading.wait"): 100,
    }
    lines = list(report(stacks, 4, {"use-case": 1.5}))
    assert "      1.50  use-case" in lines
    assert "use-case: 1.00 threads" in next(line for line in lines if line.startswith("use-case:"))
    assert "    75.0%    75.0%  cbor.decode" in lines
    assert "use-case;thread._worker;cbor.decode 3" in lines
    assert not any(line.startswith("sequencer") for line in lines)


def test_a_run_says_how_much_it_measures():
    assert FULL.with_rounds(5).rounds == 5
    assert FULL.with_rounds(None) == FULL
    assert FULL.growth[0] == FULL.growth_trail[0] == 10_000
    assert FULL.further().growth[-1] == 10_000_000


def median(value: float) -> dict[str, object]:
    return {"median": value, "low": value, "high": value, "rounds": [value]}


def grown(size: int, per_s: float, ms: float) -> dict[str, object]:
    proofs = {"p50_ms": median(ms), "p99_ms": median(ms), "max_ms": median(ms)}
    return {
        "size": size,
        "entries_per_s": median(per_s),
        "tick_ms": median(ms),
        "by_index": proofs,
        "by_entry": proofs,
    }
