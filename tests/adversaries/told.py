"""What two honest runs have in common: by it an answer is known to be another one than the honest node's."""

from typing import Any

from tests.adversaries.trial import Tried


def told(tried: Tried) -> tuple[Any, ...]:
    """Everything that an answer and its receipt say, except what may differ between two honest runs."""
    claimed, final = tried.claimed, tried.final
    usage = claimed.usage
    return (
        tried.output_ids,
        tried.text,
        tried.logprobs,
        tried.evidence,
        claimed.finish,
        claimed.model_root,
        claimed.numeric_profile,
        (usage.input, usage.output, usage.energy_mj),
        bool(tried.undelivered),
        final is not None and final.receipt == tried.receipt,
        final and (final.tokens, final.usage.output, final.finish),
        claimed.started + 1_000 < tried.ordered.created,
        usage.compute_ms is not None and usage.compute_ms > tried.took_ms + 1_000,
    )
