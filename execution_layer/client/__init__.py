"""What an application imports: sealed requests, checked receipts, an archive of its own. No torch.

with CounterfoilClient(ClientPolicy.load("client.toml")) as client:
    answer = client.generate(prompt="What does a lamp cost?", max_tokens=64)
"""

from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.completion import Completion
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.sync import CounterfoilClient

__all__ = ["AsyncCounterfoilClient", "ClientPolicy", "Completion", "CounterfoilClient"]
