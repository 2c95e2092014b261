"""What attests a node's keys: a development attester, or a plug-in that asks the hardware (protocol §2.4).

A plug-in is an entry point of the group `counterfoil.attesters`: its name is the format of its evidence, for which clients
need a verifier of the same name (`execution_layer.client.attesting`), and it is an `Attester`.
"""

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Final

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.keys import Attestation, KeyBundle
from shared.verification import development_attestation as development
from shared.verification.attestation import report_data

GROUP: Final = "counterfoil.attesters"
DEVELOPMENT: Final = "development"
MOST_BYTES: Final = 2**15
"""Of evidence, as key bundles have it."""

Attester = Callable[[bytes, int, int], bytes]
"""Returns evidence for report data (32 bytes), which is to count in [from, until) (ms since 1970)."""
Attest = Callable[[KeyBundle], Attestation]
"""Returns evidence about a key bundle's keys."""


def installed() -> Mapping[str, Callable[[], Attester]]:
    """Return the plug-ins that are installed, by format: functions that load them."""
    return {entry.name: entry.load for entry in metadata.entry_points(group=GROUP)}


def development_attestation(bundle: KeyBundle) -> Attestation:
    """Return evidence that proves nothing, for as long as the key bundle lives."""
    evidence = development.attest(report_data(bundle), bundle.not_before, bundle.not_after)
    return Attestation(development.FORMAT, evidence)


def attest_of(name: str | None) -> Attest | None:
    """Return what attests key bundles under this setting; CONFIGURATION where no such plug-in is installed."""
    if name is None:
        return None
    if name == DEVELOPMENT:
        return development_attestation
    plugins = installed()
    if name not in plugins:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"there is no attester {name}",
            remedy=f"Install its plug-in (entry point group {GROUP}); there are:"
            f" {', '.join(sorted({DEVELOPMENT, *plugins}))}.",
        )
    attester = plugins[name]()
    return lambda bundle: _evidence(name, attester, bundle)


def _evidence(name: str, attester: Attester, bundle: KeyBundle) -> Attestation:
    """Return a plug-in's evidence. UNAVAILABLE if it has none now: no key bundle goes out without what was asked for."""
    try:
        evidence: object = attester(report_data(bundle), bundle.not_before, bundle.not_after)
    except Exception as error:  # a plug-in may raise anything
        raise CounterfoilError(
            Code.UNAVAILABLE,
            f"the attester {name} failed: {type(error).__name__}: {str(error)[:200]}",
        ) from error
    if not isinstance(evidence, bytes) or not 0 < len(evidence) <= MOST_BYTES:
        raise CounterfoilError(
            Code.UNAVAILABLE, f"the attester {name} gave no evidence of 1 to {MOST_BYTES} bytes"
        )
    return Attestation(name, evidence)
