"""The tenant's own identity keys, those of earlier orders included, and what the log has made of them."""

import asyncio
from typing import Final

import grpc

from execution_layer.client.archive import own_keys_in
from execution_layer.client.operators import BOOK
from execution_layer.client.policy import ClientPolicy
from shared.parties.identity_book import IdentityBook
from shared.parties.key_rotation import known_keys
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.grpc import error_from_rpc
from shared.statements.identities import Holder, identity
from shared.verification.identities import KeyHistory

TIMEOUT_S: Final = 20.0


def own_keys(policy: ClientPolicy) -> tuple[bytes, ...]:
    """Return the tenant's public keys: those with which the archive's orders were signed, those that the key file had, and the
    current one, which is the last.
    """
    *earlier, current = known_keys(policy.tenant_key_file, policy.tenant_key())
    known = dict.fromkeys([*own_keys_in(policy.archive), *earlier])
    known.pop(current, None)
    return (*known, current)


def own_history(policy: ClientPolicy) -> KeyHistory:
    """Return these keys as the log continues them: by what this client was shown of it."""
    return book_of(policy).history(Holder.TENANT, policy.tenant, own_keys(policy))


def book_of(policy: ClientPolicy) -> IdentityBook:
    """Return what this client remembers of identities' keys."""
    return IdentityBook(policy.archive.with_name(BOOK), policy.log.policy())


async def learn_identities(policy: ClientPolicy, channel: grpc.aio.Channel) -> None:
    """Read what the log has of the tenant's own keys and of those of the operators that it pins, and remember it."""
    subjects = [
        identity(Holder.TENANT, policy.tenant),
        *(identity(Holder.OPERATOR, name) for name in policy.operators),
    ]
    request = audit_pb2.ListIdentityKeysRequest(identities=subjects)
    try:
        answer = await audit_pb2_grpc.DirectoryStub(channel).ListIdentityKeys(
            request, timeout=TIMEOUT_S
        )
    except grpc.RpcError as rpc_error:
        raise error_from_rpc(rpc_error, "the audit server") from rpc_error
    shown = [(item.statement, item.tlog_proof) for item in answer.identities]
    if shown:
        await asyncio.to_thread(lambda: book_of(policy).learn(shown))
