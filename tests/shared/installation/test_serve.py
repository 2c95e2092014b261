"""What `up` says to type elsewhere works in any folder and in any shell."""

import shlex
from pathlib import Path

from shared.installation.serve import how_to_use


def test_what_is_to_be_copied_is_whole_and_quoted():
    odd = Path("/srv/my $platform's")
    told = how_to_use(odd, {"COUNTERFOIL_CA": odd / "ca.pem"}).splitlines()
    lines = [shlex.split(line) for line in told[1:] if line]
    assert lines[0] == ["export", f"COUNTERFOIL_CA={odd}/ca.pem"]
    assert {line[0] for line in lines[1:]} == {"counterfoil"}
    assert ["counterfoil", "doctor", "--folder", str(odd)] in lines
