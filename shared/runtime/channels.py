"""gRPC channels that outlive the files of their certificates, and that say why either side refused the other.

A core channel keeps the authority and the certificate that it was created with. These create a new one when a file is
replaced; calls in flight finish on the old one.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any, Final, Self

import grpc
from grpc.aio import AioRpcError, Metadata

from shared.runtime.certificates import Followed
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.party import PartyFiles
from shared.runtime.probe import refusal
from shared.runtime.tls import load_pair

REFUSED: Final = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")
"""What the core says when our side refused the server's certificate."""
DROPPED: Final = ("Socket closed", "Connection reset", "handshake")
"""What it says, among other occasions, when the server refused ours."""

Options = list[tuple[str, int]]


def credentials(ca_file: Path, party: PartyFiles | None = None) -> grpc.ChannelCredentials:
    """Return credentials that trust only the authority in `ca_file`, and show a party's certificate if given.

    CONFIGURATION if a file cannot be read, or the certificate and its key do not match.
    """
    try:
        roots = ca_file.read_bytes()
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the certificate authority's file {ca_file} cannot be read: {error.strerror}",
        ) from error
    if party is None:
        return grpc.ssl_channel_credentials(root_certificates=roots)
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), party)  # the core says nothing of a mismatch
    return grpc.ssl_channel_credentials(roots, party.key.read_bytes(), party.cert.read_bytes())


class _Channels:
    """The channels of one target: the current one is for the files' present content."""

    def __init__(
        self, target: str, ca_file: Path, party: PartyFiles | None, make: Callable[[], Any]
    ) -> None:
        self.target, self.ca_file, self.party = target, ca_file, party
        self.made: list[Any] = []

        def kept() -> Any:
            self.made.append(channel := make())
            return channel

        own = [] if party is None else [party.cert, party.key]
        self._followed = Followed([ca_file, *own], kept)

    def current(self) -> Any:
        return self._followed.current()

    def explained(self, error: grpc.RpcError) -> grpc.RpcError:
        """Return a call's error, with the cause if a certificate was refused. Blocks."""
        if not _is_refusal(error):
            return error
        said = refusal(self.target, self.ca_file, self.party)
        return (
            AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), said)
            if said
            else error
        )


class _Method:
    """One method of a channel, on whichever channel is current."""

    def __init__(self, channels: _Channels, kind: str, arguments: Any, options: Any) -> None:
        self._channels = channels
        self._how = kind, arguments, options
        self._made: tuple[Any, Any] | None = None

    def _method(self) -> Any:
        channel = self._channels.current()
        if self._made is None or self._made[0] is not channel:
            kind, arguments, options = self._how
            self._made = channel, getattr(channel, kind)(*arguments, **options)
        return self._made[1]


class _BlockingMethod(_Method):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        try:
            return self._method()(*arguments, **options)
        except grpc.RpcError as error:
            if (explained := self._channels.explained(error)) is error:
                raise
            raise explained from error

    def __getattr__(self, name: str) -> Any:  # with_call, future
        return getattr(self._method(), name)


class _AioMethod(_Method):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _Call(self._method()(*arguments, **options), self._channels)


class _Call:
    """A call in flight; everything but its failure is the core's."""

    def __init__(self, call: Any, channels: _Channels) -> None:
        self._call = call
        self._channels = channels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._answers()

    async def read(self) -> Any:
        async with self._explaining():
            return await self._call.read()

    async def _answer(self) -> Any:
        async with self._explaining():
            return await self._call

    async def _answers(self) -> AsyncIterator[Any]:
        async with self._explaining():
            async for answer in self._call:
                yield answer

    @contextlib.asynccontextmanager
    async def _explaining(self) -> AsyncIterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            if not _is_refusal(error):
                raise
            explained = await asyncio.to_thread(self._channels.explained, error)
            raise explained from error
        except BaseException:  # the waiter was cancelled, or wants no more answers
            self._call.cancel()
            raise


class _Methods:
    """The four kinds of method of a channel."""

    _channels: _Channels
    _method: type[_Method]

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """Return a method that takes one message and answers with one."""
        return self._method(self._channels, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """Return a method that takes one message and answers with many."""
        return self._method(self._channels, "unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """Return a method that takes many messages and answers with one."""
        return self._method(self._channels, "stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """Return a method that takes many messages and answers with many."""
        return self._method(self._channels, "stream_stream", arguments, options)


class BlockingChannel(_Methods, grpc.Channel):
    """A blocking channel to host:port that reloads the authority's file."""

    _method = _BlockingMethod

    def __init__(
        self, target: str, ca_file: Path, options: Options, party: PartyFiles | None = None
    ) -> None:
        self._channels = _Channels(
            target,
            ca_file,
            party,
            lambda: grpc.secure_channel(target, credentials(ca_file, party), options=options),
        )

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Subscribe to the current channel's state."""
        self._channels.current().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """Cancel a subscription."""
        for channel in self._channels.made:
            channel.unsubscribe(callback)

    def close(self) -> None:
        """End all calls."""
        for channel in self._channels.made:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AioChannel(_Methods, grpc.aio.Channel):
    """An asyncio channel to host:port that reloads the authority's file."""

    _method = _AioMethod

    def __init__(
        self, target: str, ca_file: Path, options: Options, party: PartyFiles | None = None
    ) -> None:
        self._channels = _Channels(
            target,
            ca_file,
            party,
            lambda: grpc.aio.secure_channel(target, credentials(ca_file, party), options=options),
        )

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the current channel's state."""
        state: grpc.ChannelConnectivity = self._channels.current().get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the current channel's state has changed."""
        await self._channels.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return when the current channel is connected."""
        await self._channels.current().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """End all calls, letting them finish for `grace` seconds."""
        for channel in self._channels.made:
            await channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _is_refusal(error: grpc.RpcError) -> bool:
    if not isinstance(error, grpc.Call | AioRpcError):
        return False
    details = error.details() or ""
    return error.code() is grpc.StatusCode.UNAVAILABLE and any(
        said in details for said in (*REFUSED, *DROPPED)
    )
