"""What an application imports: sealed requests, checked receipts, an archive of its own. No torch.

    with CounterfoilClient(ClientPolicy.load("client.toml")) as client:
        asked = [{"role": "user", "content": "What is a receipt?"}]
        answer = client.generate(asked, max_tokens=64, temperature=0)

Names are imported on first use, so that the command line's help stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from execution_layer.client.client import AsyncCounterfoilClient
    from execution_layer.client.completion import Completion
    from execution_layer.client.policy import ClientPolicy
    from execution_layer.client.sync import CounterfoilClient

__all__ = ["AsyncCounterfoilClient", "ClientPolicy", "Completion", "CounterfoilClient"]

_HOMES = {
    "AsyncCounterfoilClient": "client",
    "ClientPolicy": "policy",
    "Completion": "completion",
    "CounterfoilClient": "sync",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
