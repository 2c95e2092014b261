"""What a checkpoint recommends for sampling (`generation_config.json`). A recommendation, and nothing more.

`counterfoil model show` prints it, and an application may copy it into the settings that it seals. The sealed request's settings
always hold: neither node nor auditor reads these defaults, so nothing is ever chosen for a tenant in silence. Only the stop
tokens of that file take effect (`ModelConfig.from_folder`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shared.runtime.errors import Code, CounterfoilError
from shared.text.files import read_json_if_there

NUMBERS = ("temperature", "top_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Recommended settings; None where the checkpoint says nothing."""

    do_sample: bool | None = None
    """False recommends greedy decoding."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    """Not among the settings of a request: shown, so that nobody takes its absence for the recommendation."""

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read the file if there is one; MALFORMED names a field that makes no sense."""
        return cls.from_json(read_json_if_there(folder / "generation_config.json"))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read a parsed `generation_config.json`."""
        flag, top_k = data.get("do_sample"), data.get("top_k")
        if flag is not None and not isinstance(flag, bool):
            raise _senseless("do_sample")
        if top_k is not None and (type(top_k) is not int or not 0 <= top_k <= 1 << 24):
            raise _senseless("top_k")
        numbers = {}
        for name in NUMBERS:
            value = data.get(name)
            if value is not None and (
                not (type(value) is int or type(value) is float) or not 0 <= value <= 1000
            ):
                raise _senseless(name)
            numbers[name] = None if value is None else float(value)
        return cls(do_sample=flag, top_k=top_k, **numbers)


def _senseless(name: str) -> CounterfoilError:
    return CounterfoilError(Code.MALFORMED, f"generation_config.json: {name} makes no sense")
