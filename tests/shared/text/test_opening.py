"""Opening a stranger's tokenizer and template: what cannot be served is refused by name, and nothing takes forever."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.text import opening
from shared.text.opening import open_tokenizer
from shared.text.tokenizer import Tokenizer
from shared.text.trial import try_out
from tests.shared.model import tiny
from tests.shared.text.backends import SHIPPED

ROWS = 2048
SLOW = {"type": "Split", "pattern": {"Regex": "a+(?=c)"}, "behavior": "Isolated", "invert": False}
"""From each of many letters, searches for the end of all of them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    return tmp_path


def changed(folder: Path, **parts: object) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
    return folder


def refused(code: Code, call, *arguments, **options) -> str:
    with pytest.raises(CounterfoilError) as caught:
        call(*arguments, **options)
    assert caught.value.code is code
    return str(caught.value)


def tried(folder: Path, template: str | None = None, rows: int = ROWS) -> None:
    """Load and try out in this process."""
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    try_out(Tokenizer.from_folder(folder), rows)


def test_the_shipped_checkpoint_opens():
    assert open_tokenizer(SHIPPED, rows=ROWS, stops=(2,)).stop_tokens == {2}


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(folder):
    rows = Tokenizer.from_folder(folder).rows
    assert rows == max(token["id"] for token in json.loads(tiny.tokenizer_json())["added_tokens"]) + 1  # fmt: skip
    tried(folder, rows=rows)
    said = refused(Code.UNSUPPORTED, open_tokenizer, folder, rows=rows - 1, stops=())
    assert f"token {rows - 1}" in said
    assert f"{rows - 1} rows" in said


def test_a_token_that_is_put_around_a_text_has_a_row_too(folder):
    changed(
        folder, post_processor={"type": "BertProcessing", "sep": ["x", 2**32 - 1], "cls": ["y", 1]}
    )
    assert "no row" in refused(Code.UNSUPPORTED, tried, folder)


@pytest.mark.parametrize(
    "parts",
    [
        {"decoder": {"type": "Strip", "content": "a", "start": 9, "stop": 9}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "x", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
    ids="-".join,
)
def test_a_panic_of_the_library_is_an_error_like_any_other(folder, parts):
    """A panic is not an `Exception` in Python: it would pass through every handler and end the process."""
    with pytest.raises(CounterfoilError) as caught:
        tried(changed(folder, **parts))
    assert caught.value.code in {Code.MALFORMED, Code.INVALID_ARGUMENT, Code.UNSUPPORTED}


def test_a_panic_in_the_trial_is_reported_and_stays_there(folder):
    changed(folder, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    said = refused(Code.MALFORMED, open_tokenizer, folder, rows=ROWS, stops=())
    assert "tokenizer.json" in said


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ strftime_now('%Y') }}{{ messages[0].content }}", "strftime_now"),
        ("{% if messages | length > 1 %}{{ strftime_now('%Y') }}{% endif %}", "strftime_now"),
        ("{{ ['<|user|>'] | tojson }}{{ messages[0].content }}", "control token"),
        ("{{ messages[0].content | format }}", "'format'"),
        ("{% for a in messages %}{% for b in messages %}{% for c in messages %}{% endfor %}{% endfor %}{% endfor %}", "steps"),
        ("{{ raise_exception('no') }}", "no conversation"),
        ("{{ tools[0].name }}", "no conversation"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_served_is_refused_when_it_is_opened(folder, template, why):
    with pytest.raises(CounterfoilError, match=why):
        tried(folder, template)


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content | trim if m.role != 'system' else raise_exception('no') }}{% endfor %}",
        "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}{{ messages[0].content }}",
    ],
)
def test_a_template_may_refuse_some_conversations(folder, template):
    tried(folder, template)


def test_a_folder_that_would_take_forever_is_refused(folder, monkeypatch):
    monkeypatch.setattr(opening, "WALL_S", 2.0)
    changed(folder, pre_tokenizer={"type": "Sequence", "pretokenizers": [SLOW] * 100})
    said = refused(Code.UNSUPPORTED, open_tokenizer, folder, rows=ROWS, stops=())
    assert "time or memory" in said


def test_a_folder_that_would_take_all_memory_ends_its_trial(folder):
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 4000}
    changed(folder, normalizer={"type": "Sequence", "normalizers": [grow, grow]})
    small = "import sys; from shared.text import trial; trial.MEMORY = 1 << 29; trial.main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", small, str(folder), str(ROWS)], capture_output=True, check=False
    )
    assert done.returncode < 0 or b"UNSUPPORTED" in done.stdout


def test_a_trial_that_does_not_run_is_not_blamed_on_the_folder(folder, monkeypatch):
    monkeypatch.setattr(opening.sys, "executable", "/bin/false")
    said = refused(Code.INTERNAL, open_tokenizer, folder, rows=ROWS, stops=(3,))
    assert "shared.text.trial" in said


def test_equal_folders_are_tried_once(folder, monkeypatch):
    open_tokenizer(folder, rows=ROWS, stops=())
    monkeypatch.setattr(opening.subprocess, "run", None)
    open_tokenizer(folder, rows=ROWS, stops=())
    with pytest.raises(TypeError):
        open_tokenizer(folder, rows=ROWS + 1, stops=())
