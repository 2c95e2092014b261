"""How the figures are shown to a person."""

from collections.abc import Iterator
from typing import Any


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield what was found, a line each."""
    yield f"{found['card']}, {found['arithmetic']}; torch {found['machine']['torch']}"
    for each in found.get("bits", ()):
        yield f"  {each['differing']:>8,} of {each['values']:>10,} values differ: {each['what']}"
    if speed := found.get("speed"):
        yield f"copies {speed['copy_bytes_per_s'] / 1e12:.2f} TB/s"
        for each in speed["decode"]:
            yield (
                f"  decode {each['batch']:>3} at {each['context']:>5,}: {each['ms']:8.2f} ms,"
                f" {each['tokens_per_s']:>9,.0f} tokens/s, {each['share_of_copy']:.2f} of the copies' bandwidth"
            )
        each = speed["prefill"]
        yield f"  prefill {each['tokens']:,}: {each['ms']:.1f} ms, {each['tokens_per_s']:,.0f} tokens/s"
    for each in found.get("tune", ()):
        yield f"  {each['product']} of {each['rows']}: {each['best']}, {each['ms']:.3f} ms"
