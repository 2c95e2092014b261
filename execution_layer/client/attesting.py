"""Appraises the evidence that key bundles carry, by plug-ins that are trusted with nothing but their claims.

A plug-in is an entry point of the group `counterfoil.attestation`: its name is the format that it appraises, and it is a
`shared.verification.attestation.Verifier`. One that raises, hangs or returns something else makes its claims unknown.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Final

from execution_layer.client.policy import AttestationPolicy
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.keys import KeyBundle
from shared.verification import development_attestation as development
from shared.verification.attestation import (
    BOUND,
    FRESH,
    Claim,
    Value,
    Verifier,
    checked_claims,
    report_data,
    value_of,
)

GROUP: Final = "counterfoil.attestation"
PATIENCE_S: Final = 5.0
"""How long a plug-in may take."""
_log = logging.getLogger(__name__)


class Attesting:
    """The verifiers of this installation, and the policy's demands."""

    def __init__(
        self,
        policy: AttestationPolicy,
        verifiers: Mapping[str, Callable[[], Verifier]] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`verifiers` maps formats to functions that load a verifier; by default those that are installed."""
        self._policy = policy
        self._loaders = installed() if verifiers is None else verifiers
        self._patience_s = patience_s
        self._hung: set[str] = set()
        """Formats whose verifier did not come back: it is not called again, so that no threads pile up."""

    async def check(self, bundle: KeyBundle, as_of_ms: int) -> tuple[Claim, ...]:
        """Return the claims about a key bundle at a time; UNTRUSTED_KEY if the policy does not accept them."""
        kind = None if bundle.attestation is None else bundle.attestation.format
        if kind == development.FORMAT and not self._policy.development:
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                f"the attestation of {bundle.issuer} is a development attester's, which proves nothing",
                remedy="Only for tests: set development = true under [attestation] in client.toml.",
            )
        claims = await self._claims(bundle, as_of_ms)
        wanting = [
            name
            for name in (BOUND, FRESH, *self._policy.require)
            if value_of(claims, name) is not Value.AFFIRMED
        ]
        if self._policy.require and wanting:
            told = ", ".join(f"{name} is {value_of(claims, name)}" for name in wanting)
            raise CounterfoilError(
                Code.UNTRUSTED_KEY,
                f"the attestation of {bundle.issuer} does not affirm what the policy demands: {told}",
                remedy="`require` under [attestation] in client.toml says what is demanded; a verifier for the evidence's"
                " format must be installed.",
            )
        return claims

    async def _claims(self, bundle: KeyBundle, as_of_ms: int) -> tuple[Claim, ...]:
        evidence = bundle.attestation
        if evidence is None:
            return ()
        kind = evidence.format
        if kind in self._hung:
            return ()
        loader = self._loaders.get(kind)
        if loader is None:
            return ()
        made = await self._bounded(
            kind, lambda: tuple(loader()(evidence.evidence, report_data(bundle), as_of_ms))
        )
        try:
            return checked_claims(made, kind)
        except ValueError as error:
            _log.warning("the verifier of attestation format %s: %s", kind, error)
            return ()

    async def _bounded(
        self, kind: str, call: Callable[[], tuple[object, ...]]
    ) -> tuple[object, ...]:
        """Run a plug-in in a thread of its own, which is abandoned if it does not come back."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[tuple[object, ...]] = loop.create_future()

        def tell(found: tuple[object, ...]) -> None:
            if not result.done():
                result.set_result(found)

        def run() -> None:
            found: tuple[object, ...] = ()
            try:
                found = call()
            except Exception as error:  # noqa: BLE001  # a plug-in may raise anything
                _log.warning(
                    "the verifier of attestation format %s failed: %s", kind, type(error).__name__
                )
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, found)

        threading.Thread(target=run, name=f"attestation {kind}", daemon=True).start()
        try:
            return await asyncio.wait_for(result, self._patience_s)
        except TimeoutError:
            self._hung.add(kind)
            _log.warning("the verifier of attestation format %s did not come back", kind)
            return ()


def installed() -> Mapping[str, Callable[[], Verifier]]:
    """Return the verifiers that are installed, and the development attester's, by format."""
    found: dict[str, Callable[[], Verifier]] = {
        entry.name: entry.load for entry in metadata.entry_points(group=GROUP)
    }
    return {**found, development.FORMAT: lambda: development.appraise}
