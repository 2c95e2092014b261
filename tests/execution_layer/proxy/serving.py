"""A live proxy beside the small world's nodes, and the official client that talks to it."""

import contextlib
import json
from dataclasses import dataclass

import httpx
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from execution_layer.proxy.api_keys import ApiKeys
from execution_layer.proxy.settings import ProxySettings
from execution_layer.proxy.setup import write_proxy
from execution_layer.wiring.proxy import running_proxy
from shared.runtime.config import load
from tests.execution_layer.world import MODEL_ROOT

MODEL = "gpt-4o-mini"


@dataclass
class Live:
    """A proxy that serves, with one key of the cost centre `sales`."""

    folder: object
    base_url: str
    settings: ProxySettings
    key: str
    key_id: str

    def add_key(self, name, **tags):
        """Return another key's secret."""
        with ApiKeys(self.settings.keys_file) as keys:
            return keys.add(name, tags)[1]

    def revoke(self):
        """Revoke the first key."""
        with ApiKeys(self.settings.keys_file) as keys:
            keys.revoke(self.key_id)

    @contextlib.asynccontextmanager
    async def openai(self, key=None, **options):
        """The official client, which repeats nothing unless a test wants it."""
        async with AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.key if key is None else key,
            http_client=DefaultAsyncHttpxClient(trust_env=False),
            **{"max_retries": 0, **options},
        ) as client:
            yield client

    @contextlib.asynccontextmanager
    async def http(self, key=None):
        """A client that sends what it is told."""
        shown = {"authorization": f"Bearer {self.key if key is None else key}"}
        async with httpx.AsyncClient(
            base_url=self.base_url + "/", headers=shown, trust_env=False, timeout=60
        ) as client:
            yield client

    async def post(self, path, body, key=None):
        """Send a body, bytes or an object, and return the response."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.http(key) as client:
            return await client.post(path, content=content)


@contextlib.asynccontextmanager
async def live(world, *, policy=None, **changes):
    """Serve a proxy for the world's tenant."""
    world.policy(**(policy or {}))
    folder = world.folder / "proxy"
    facts = write_proxy(
        folder,
        world.folder / "client" / "client.toml",
        "127.0.0.1:0",
        {MODEL: MODEL_ROOT.hex()},
        None,
    )
    settings = load(ProxySettings, facts["config"]).model_copy(
        update={"default_max_tokens": 8, "proofs_every_s": 0, **changes}
    )
    with ApiKeys(settings.keys_file) as keys:
        key, secret = keys.add("shop", {"cost_centre": "sales"})
    async with running_proxy(settings) as server:
        yield Live(folder, f"http://{server.address}/v1", settings, secret, key.id)
