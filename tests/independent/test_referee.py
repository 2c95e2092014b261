"""Another referee, in JavaScript and from the protocol's text alone, decides every vector of a dispute as ours does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.independent.tools import need, run
from tests.vectors.files import apply, load

HERE = Path(__file__).parent
VECTORS = load("disputes")


@pytest.fixture(autouse=True)
def installed() -> None:
    need(shutil.which("node") is not None, "Node.js is not installed")
    need(
        (HERE / "node_modules" / "cbor-x").is_dir(),
        "the packages are not installed: npm install --prefix tests/independent",
    )


async def decided(items: list[dict[str, Any]]) -> list[Any]:
    program = HERE / "disputes" / "referee.mjs"
    status, said = await run("node", program, given=json.dumps(items).encode(), limit_s=60.0)
    assert status == 0, said
    found: list[Any] = json.loads(said)
    return found


def asked(
    world: dict[str, Any], segment: dict[str, Any], element: dict[str, Any]
) -> dict[str, Any]:
    return {
        "claim": world["claim"],
        "root": world["root"],
        "segment": segment["segment"],
        "operators": segment["operators"],
        **{name: element[name] for name in ("number", "row", "element", "chunks", "case")},
    }


async def test_every_element_of_the_vectors_is_decided_alike():
    items, expected = [], []
    for world in VECTORS["worlds"]:
        for segment in world["segments"]:
            for element in segment["elements"]:
                items.append(asked(world, segment, element))
                expected.append((world["name"], element["operator"], element["right"]))
    found = await decided(items)
    got = [(*key[:2], right) for key, right in zip(expected, found, strict=True)]
    assert got == expected
    assert len({operator for _, operator, _ in expected}) == 31


async def test_every_spoiled_case_is_refused():
    items, names = [], []
    for world in VECTORS["worlds"]:
        segment = world["segments"][1]
        for refused in world["refused"]:
            element = segment["elements"][refused["number"]]
            bad = apply(bytes.fromhex(element["case"]), refused).hex()
            items.append({**asked(world, segment, element), "case": bad})
            names.append(refused["name"])
    assert len(names) > 5
    for name, said in zip(names, await decided(items), strict=True):
        assert isinstance(said, str), name
