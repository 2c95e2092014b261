"""The vectors: regenerated and compared, valid ones accepted, each spoiled one refused as it says."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import parse_checkpoint
from shared.translog.cose_receipt import verify_receipt
from shared.translog.notes import parse_signature_line, parse_vkey
from shared.translog.policy import LogPolicy, verify_witnessed
from shared.translog.policy_file import parse_policy_file
from shared.translog.proofs import verify_consistency, verify_inclusion
from shared.translog.signed_checkpoint import signature_time
from shared.translog.tiles import Tile, parse_tile_path
from shared.translog.tlog_proof import parse_tlog_proof, verify_tlog_proof
from shared.translog.tree import leaf_hash, root
from tests.vectors import generate_bundles
from tests.vectors import generate_translog as generator

Json = dict[str, Any]


def load(name: str) -> Json:
    value: Json = json.loads((generator.FOLDER / name).read_text("utf-8"))
    return value


def check_inclusion(case: Json, _policy: LogPolicy | None) -> None:
    verify_inclusion(
        bytes.fromhex(case["leaf"]),
        case["index"],
        case["size"],
        [bytes.fromhex(value) for value in case["proof"]],
        bytes.fromhex(case["root"]),
    )


def check_consistency(case: Json, _policy: LogPolicy | None) -> None:
    verify_consistency(
        case["old_size"],
        bytes.fromhex(case["old_root"]),
        case["new_size"],
        bytes.fromhex(case["new_root"]),
        [bytes.fromhex(value) for value in case["proof"]],
    )


def check_checkpoint(case: Json, policy: LogPolicy | None) -> None:
    assert policy is not None
    assert verify_witnessed(case["note"], policy).note.encode() == case["note"]


def check_tlog_proof(case: Json, policy: LogPolicy | None) -> None:
    assert policy is not None
    verify_tlog_proof(case["note"], bytes.fromhex(case["entry"]), policy)
    assert parse_tlog_proof(case["note"]).encode() == case["note"]


def check_cose_receipt(case: Json, _policy: LogPolicy | None) -> None:
    verify_receipt(*(bytes.fromhex(case[name]) for name in ("receipt", "entry", "key")))


def check_cosignature(case: Json, _policy: LogPolicy | None) -> None:
    checkpoint = parse_checkpoint(case["checkpoint"])
    line, key = parse_signature_line(case["line"]), parse_vkey(case["vkey"])
    time_s = signature_time(checkpoint, [line], key)
    if time_s is None:
        raise CounterfoilError(Code.NOT_WITNESSED, "the line is not of this key")
    assert time_s == case["time"]
    assert line.encode() == case["line"] + "\n"


def check_policy_file(case: Json, _policy: LogPolicy | None) -> None:
    file = parse_policy_file(case["text"])
    policy = file.policy()
    assert parse_policy_file(file.encode()) == file
    keys = {item.name: item.key for item in file.witnesses}
    for met, sets in ((True, case["met"]), (False, case["not_met"])):
        for names in sets:
            assert bool(policy.quorum.met_by({keys[name] for name in names})) is met, names


CHECKS: dict[str, Callable[[Json, LogPolicy | None], None]] = {
    "inclusion.json": check_inclusion,
    "consistency.json": check_consistency,
    "checkpoint.json": check_checkpoint,
    "tlog_proof.json": check_tlog_proof,
    "cose_receipt.json": check_cose_receipt,
    "cosignature.json": check_cosignature,
    "policy_file.json": check_policy_file,
    generator.FROZEN: check_tlog_proof,
}


def cases(kind: str) -> list[Any]:
    return list(_cases(kind))


def _cases(kind: str) -> Iterator[Any]:
    for name, check in CHECKS.items():
        data = load(name)
        policy = LogPolicy.from_vkeys(**data["policy"]) if "policy" in data else None
        for number, case in enumerate(data.get(kind, [])):
            yield pytest.param(check, case, policy, id=f"{name}-{case.get('name', number)}")


def test_the_files_are_what_the_generator_writes():
    for name, content in (generator.build() | generate_bundles.build()).items():
        assert (generator.FOLDER / name).read_text("utf-8") == content, name


@pytest.mark.parametrize(("check", "case", "policy"), cases("valid"))
def test_valid_vectors_are_accepted(
    check: Callable[[Json, LogPolicy | None], None], case: Json, policy: LogPolicy | None
):
    check(case, policy)


@pytest.mark.parametrize(("check", "case", "policy"), cases("spoiled"))
def test_spoiled_vectors_are_refused_with_their_code(
    check: Callable[[Json, LogPolicy | None], None], case: Json, policy: LogPolicy | None
):
    with pytest.raises(CounterfoilError) as caught:
        check(case, policy)
    assert caught.value.code is Code[case["code"]]
    assert caught.value.detail


def test_tree_vectors():
    data = load("tree.json")
    leaves = [leaf_hash(generator.entry(index)) for index in range(300)]
    assert [leaf.hex() for leaf in leaves[:4]] == data["leaf_hashes"]
    for size, expected in data["roots"].items():
        assert root(leaves[: int(size)]).hex() == expected


def test_tile_path_vectors():
    data = load("tiles.json")
    for item in data["paths"]:
        tile = Tile(item["level"], item["index"], item["width"])
        assert tile.path == item["path"]
        assert parse_tile_path(item["path"]) == tile
    for path in data["not_paths"]:
        with pytest.raises(CounterfoilError):
            parse_tile_path(path)
