"""Opens this machine's card for the backend, and says what is wrong where that cannot be done.

Everything is checked before a model is read. Only `open_card` imports the kernels, and with them Triton.
"""

import os
import tempfile
from importlib import util
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Final

import torch

from shared.model.cuda.tiles import Table
from shared.runtime.cards import ARITHMETICS, Card, NoCardsError, cards
from shared.runtime.errors import Code, CounterfoilError

if TYPE_CHECKING:
    from shared.model.cuda.backend import CudaBackend

ELSE_CPU: Final = 'or serve on the CPU with device = "cpu".'


def open_card(arithmetic: str = "auto") -> "CudaBackend":
    """Return a backend on the card that CUDA numbers 0, in its own arithmetic, which `arithmetic` must name unless it is `auto`.

    CONFIGURATION says which part is missing, too old or of no use.
    """
    card = _first_card()
    own = arithmetic_of(card)
    if arithmetic not in ("auto", own):
        raise _unusable(
            f"{card.name} computes {own}, not {arithmetic[:40]}",
            'Set arithmetic = "auto", ' + ELSE_CPU,
        )
    _check_torch(card)
    _check_compiler()
    from shared.model.cuda.backend import CudaBackend  # noqa: PLC0415  # Triton may be missing

    return CudaBackend(own, torch.device("cuda", 0), Table.of(card.capability))


def _first_card() -> Card:
    try:
        return cards()[0]
    except NoCardsError as error:
        raise _unusable(
            f'device = "cuda", but {error}',
            "Install NVIDIA's driver, give this process a card (CUDA_VISIBLE_DEVICES, container options), "
            + ELSE_CPU,
        ) from None


def arithmetic_of(card: Card) -> str:
    """Return the arithmetic of a card's matrix unit; CONFIGURATION for a card that has none for bfloat16, or an unknown one."""
    if card.arithmetic is not None:
        return card.arithmetic
    known = ", ".join(f"{major}.{minor}" for major, minor in ARITHMETICS)
    major, minor = card.capability
    why = (
        "has no matrix unit for bfloat16"
        if major < min(ARITHMETICS)[0]
        else "has a matrix unit whose arithmetic is not known"
    )
    raise _unusable(
        f"{card.name} (compute capability {major}.{minor}) {why}",
        f"Use a card of compute capability {known}, {ELSE_CPU}",
    )


def _check_torch(card: Card) -> None:
    """Raise CONFIGURATION unless torch and Triton are there and torch can use the card."""
    if torch.version.cuda is None:
        raise _unusable(
            f"this torch ({torch.__version__}) was built without CUDA",
            f"Install a CUDA build of torch (pytorch.org says how), {ELSE_CPU}",
        )
    if not torch.cuda.is_available():
        raise _unusable(
            f"torch {torch.__version__} cannot use {card.name}: the driver is older than CUDA {torch.version.cuda} needs",
            f"Update NVIDIA's driver, install a torch for an older CUDA, {ELSE_CPU}",
        )
    if util.find_spec("triton") is None:
        raise _unusable(
            "Triton is not installed, so the kernels cannot be compiled",
            f"Install the version that this torch names (pip install --force-reinstall torch), {ELSE_CPU}",
        )


def _check_compiler() -> None:
    """Raise CONFIGURATION unless Triton can build its launchers and keep what it has compiled."""
    if not (os.environ.get("CC") or which("cc") or which("gcc") or which("clang")):
        raise _unusable(
            "there is no C compiler, with which Triton builds its launchers",
            f"Install one (cc), {ELSE_CPU}",
        )
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unusable(
            f"compiled kernels cannot be kept in {folder}: {error.strerror}",
            "Set TRITON_CACHE_DIR to a folder that only this user may write.",
        ) from None


def _unusable(what: str, remedy: str) -> CounterfoilError:
    return CounterfoilError(Code.CONFIGURATION, what, remedy=remedy)
