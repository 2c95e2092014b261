"""How often a node's receipts are audited, by its standing: a pure function of the policy's rate. Never below that rate."""

import math
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from shared.statements.request import PPM
from shared.verification.standing import Standing


def rates(rate_ppm: int, *, new: Fraction, watched: Fraction) -> Mapping[Standing, int]:
    """Return the audit rate in a million for each standing.

    `rate_ppm` deters whatever the record, so it is the floor. A new node, until it has passed `KNOWN_PASSES` audits, has no
    record that tells anything: `new` times the rate. A watched node: `watched` times, or `new` if that is more. All receipts
    of a suspended one.
    """
    return MappingProxyType(
        {
            Standing.SUSPENDED: PPM,
            Standing.WATCHED: _times(rate_ppm, max(new, watched)),
            Standing.NEW: _times(rate_ppm, new),
            Standing.GOOD: rate_ppm,
        }
    )


def _times(rate_ppm: int, factor: Fraction) -> int:
    """Return a multiple of a rate, rounded up, at most 1."""
    return min(PPM, math.ceil(rate_ppm * factor))
