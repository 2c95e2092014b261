"""Wires the proxy: the client of a policy, the API keys, the application, its server."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from execution_layer.client.client import AsyncCounterfoilClient
from execution_layer.client.policy import ClientPolicy
from execution_layer.proxy.api_errors import answer_error
from execution_layer.proxy.api_keys import ApiKeys
from execution_layer.proxy.app import create_app
from execution_layer.proxy.service import Service
from execution_layer.proxy.settings import ProxySettings
from shared.runtime.errors import CounterfoilError
from shared.runtime.http import HttpsServer, serve_near
from shared.runtime.readiness import write_ready

_log = logging.getLogger(__name__)


async def serve_proxy(
    settings: ProxySettings, ready_file: Path | None, stop: asyncio.Event
) -> None:
    """Serve until `stop` is set."""
    async with running_proxy(settings) as server:
        if ready_file is not None:
            scheme = "http" if settings.tls is None else "https"
            write_ready(ready_file, {scheme: server.address})
        await stop.wait()


@contextlib.asynccontextmanager
async def running_proxy(settings: ProxySettings) -> AsyncIterator[HttpsServer]:
    """Serve while the block lasts. What is being answered at its end is cancelled, and its nodes are told."""
    policy = ClientPolicy.load(settings.client)
    with ApiKeys(settings.keys_file) as keys:
        async with AsyncCounterfoilClient(policy) as client:
            service = Service(client, policy, settings)
            server = await serve_near(
                create_app(service, keys, settings),
                settings.tls,
                settings.address,
                answer=answer_error,
                traffic=settings.traffic,
            )
            proving = asyncio.create_task(_prove(service, settings.proofs_every_s))
            try:
                yield server
            finally:
                proving.cancel()
                await server.stop()


async def _prove(service: Service, every_s: int) -> None:
    """Fetch proofs from time to time. A log that lies is reported each time, and changes nothing for answers: these are checked
    by themselves.
    """
    while every_s:
        await asyncio.sleep(every_s)
        try:
            await service.prove()
        except CounterfoilError as error:
            _log.error("proofs of receipts could not be fetched: %s", error)
