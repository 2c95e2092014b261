"""Names and arguments as other programs take them."""

import subprocess

import pytest

from shared.runtime.text import command_line, export_line, is_text

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
