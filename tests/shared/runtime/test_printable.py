"""Names and arguments that are safe for other programs."""

import json
import subprocess

import pytest

from shared.runtime.printable import (
    command_line,
    export_line,
    for_terminal,
    is_text,
    json_for_terminal,
)

ODD = [
    "a b",
    "a,b",
    "100%",
    "it's",
    'say "hi"',
    "a\nb",
    "$(exit 3)",
    "`x`",
    "[bold]",
    "\\",
    "ü",
    "",
]


@pytest.mark.parametrize("value", ODD)
def test_a_shell_reads_back_what_was_exported(value):
    script = f'{export_line("COUNTERFOIL_X", value)}\nprintf %s "$COUNTERFOIL_X"'
    assert (
        subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True).stdout
        == value.encode()
    )


def test_a_shell_reads_back_the_words_of_a_command():
    said = subprocess.run(
        ["/bin/sh", "-c", command_line("printf", "%s|", *ODD)], capture_output=True, check=True
    )
    assert said.stdout.decode().split("|")[:-1] == ODD


def test_bytes_that_are_no_text_are_told_apart():
    assert is_text("ü\n,")
    assert not is_text(b"/data/\xff".decode("utf-8", "surrogateescape"))


STEERING = [
    ("\x1b[2J", "\\x1b[2J"),
    ("\x9b31m", "\\x9b31m"),
    ("a\rb\x08", "a\\x0db\\x08"),
    ("\x00\x07\x7f", "\\x00\\x07\\x7f"),
    ("\u202egpj.exe", "\\u202egpj.exe"),
    ("\u2066\u2069\u2028", "\\u2066\\u2069\\u2028"),
    ("\U000e0041\ufeff", "\\U000e0041\\ufeff"),
    ("\ud800", "\\ud800"),
]


@pytest.mark.parametrize(("text", "shown"), STEERING)
def test_what_steers_a_terminal_is_spelled_out(text, shown):
    assert for_terminal(text) == shown
    assert "".join(map(for_terminal, text)) == shown  # it may arrive in parts
    encoded = json_for_terminal(json.dumps({text: [text]}, ensure_ascii=False, indent=1))
    assert for_terminal(encoded) == encoded
    assert json.loads(encoded) == {text: [text]}


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines\tand a tab",
        "naïve 東京 𝄞",
        "👩\u200d👧",
        "עברית\u200f!",
        "न\u200dम",
        "a\u00a0b",
        "\ue000",
    ],
)
def test_text_of_any_script_stays_as_it_is(text):
    assert for_terminal(text) == text
    assert json_for_terminal(f'"{text}"') == f'"{text}"'
