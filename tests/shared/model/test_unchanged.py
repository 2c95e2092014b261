"""A folder that changes between the reading of its weights and that of its root is noticed, whatever changes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.model.shards import INDEX
from shared.model.unchanged import Snapshot
from shared.runtime.errors import Code, CounterfoilError
from shared.text.model_files import FILES
from tests.shared.model import tiny

WEIGHTS = "model.safetensors"
SMALL = {"hidden_size": 32, "intermediate_size": 32, "head_dim": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", **SMALL)


def noticed(known: Snapshot, name: str) -> None:
    with pytest.raises(CounterfoilError) as caught:
        known.check()
    assert (caught.value.code, name in caught.value.detail) == (Code.CORRUPT, True)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


def replaced(path: Path) -> None:
    """Put a file with the same content and the same time there, as `mv` does."""
    shutil.copy2(path, path.with_name("other"))
    path.with_name("other").rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": grow,
    "shorter": lambda path: os.truncate(path, 1),
    "gone": Path.unlink,
    "another file": replaced,
    "written again": lambda path: os.utime(path, ns=(0, 1)),
}


@pytest.mark.parametrize("name", [*FILES, WEIGHTS])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_to_any_file_is_noticed_and_names_it(folder, name, change):
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    known = Snapshot.of(folder)
    known.check()
    CHANGES[change](folder / name)
    noticed(known, name)


@pytest.mark.parametrize("name", ["generation_config.json", "chat_template.jinja", WEIGHTS])
def test_a_file_that_was_not_there_is_noticed(folder, name):
    (folder / name).unlink(missing_ok=True)
    known = Snapshot.of(folder)
    (folder / name).write_text("{}")
    noticed(known, name)


def test_what_a_link_leads_to_counts(folder, tmp_path):
    (folder / WEIGHTS).rename(tmp_path / "blob")
    (folder / WEIGHTS).symlink_to(tmp_path / "blob")
    known = Snapshot.of(folder)
    known.check()
    grow(tmp_path / "blob")
    noticed(known, WEIGHTS)


def test_shards_that_an_index_names_count(folder):
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"t": "a.safetensors"}}))
    known = Snapshot.of(folder)
    grow(folder / "a.safetensors")
    noticed(known, "a.safetensors")


def test_files_that_are_no_part_of_the_model_do_not_count(folder):
    known = Snapshot.of(folder)
    (folder / "README.md").write_text("A card.")
    os.utime(folder / WEIGHTS, ns=(0, (folder / WEIGHTS).stat().st_mtime_ns))  # read lately
    known.check()
