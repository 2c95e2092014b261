"""Inspecting a running node from outside: its database read-only, its service over gRPC."""

import os
import signal
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc

from execution_layer.node.revoking import revoked_from
from execution_layer.node.settings import NodeSettings
from execution_layer.node.spool import spool_counts, unfinished_requests
from shared.codec.moment import now_ms, to_rfc3339
from shared.model.config import ModelConfig
from shared.parties.key_rotation import known_keys
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.proto.counterfoil.execution.v1 import execution_pb2, execution_pb2_grpc
from shared.runtime.certificates import life_of
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc, secure_channel
from shared.runtime.journal import connect, lock_holder
from shared.runtime.key_store import open_store
from shared.runtime.keys import load_ed25519
from shared.statements.cose import entry_of, read_as
from shared.statements.keys import KeyBundle

_TIMEOUT_S = 5.0
_POLL_S = 0.1


def node_status(settings: NodeSettings) -> dict[str, Any]:
    """Return facts about a node for people and scripts; only those about the spool if the node is not running."""
    pid = lock_holder(settings.spool)
    facts: dict[str, Any] = {"node": settings.issuer, "running": pid is not None, "pid": pid}
    if settings.stage is None:
        facts["max_model_len"] = _context(settings)
    else:
        facts["layers"] = settings.stage.layers
    facts.update(_spool_facts(settings))
    facts["certificate"] = _certificate(settings.tls.cert)
    if settings.party is not None:
        facts["party_certificate"] = _certificate(settings.party.cert)
    bundles = _newest_first(settings)
    if bundles:
        newest = read_as(KeyBundle, bundles[0])
        facts["endpoint"] = newest.endpoint
        facts["bundle_ends"] = to_rfc3339(newest.not_after)
        facts["bundle_live"] = newest.is_live(now_ms())
        if pid is not None:
            facts.update(_service_facts(settings, newest.endpoint))
            facts.update(_directory_facts(settings, entry_of(bundles[0])))
    return facts


def drain_node(settings: NodeSettings, *, timeout_s: float) -> None:
    """Ask the running node to refuse new requests; return once none is in flight, or raise DEADLINE."""
    pid = lock_holder(settings.spool)
    if pid is None:
        raise CounterfoilError(Code.NOT_FOUND, f"{settings.issuer} is not running on this machine")
    os.kill(pid, signal.SIGUSR1)
    until = time.monotonic() + timeout_s
    db = connect(settings.spool, read_only=True)
    try:
        time.sleep(_POLL_S)
        while (count := unfinished_requests(db)) and time.monotonic() < until:
            time.sleep(_POLL_S)
    finally:
        db.close()
    if count:
        raise CounterfoilError(Code.DEADLINE, f"{count} requests are still in flight")


def _context(settings: NodeSettings) -> int | None:
    """Return the longest sequence that the node accepts; None if its model cannot be read or served."""
    try:
        return settings.context(ModelConfig.from_folder(settings.model).max_positions)
    except CounterfoilError:
        return None


def _spool_facts(settings: NodeSettings) -> dict[str, int]:
    try:
        db = connect(settings.spool, read_only=True)
    except CounterfoilError:
        return {}  # it has never run
    try:
        counts = spool_counts(db)
        in_flight = unfinished_requests(db)
    finally:
        db.close()
    return {
        "in_flight": in_flight,
        "receipts": counts.signed,
        "pending": counts.pending,
        "delivered": counts.delivered,
        "rejected": counts.rejected,
    }


def _certificate(path: Path) -> str:
    life = life_of(path)
    if life is None:
        return f"{path} cannot be read"
    return life.warning(datetime.now(UTC)) or f"valid until {life.end:%Y-%m-%d}"


def _newest_first(settings: NodeSettings) -> list[bytes]:
    """Return the node's key bundles, as its operator signed them."""
    found = [path.read_bytes() for path in settings.keys.glob("*.bundle")]
    opened = [(read_as(KeyBundle, raw).not_before, raw) for raw in found]
    return [raw for _, raw in sorted(opened, reverse=True)]


def _directory_facts(settings: NodeSettings, bundle: bytes) -> dict[str, str]:
    """Return what clients read about the node: its standing, and whether its operator has revoked the key bundle.

    Empty if the audit server does not answer.
    """
    operator = load_ed25519(settings.operator_key_file, open_store(settings.operator_key_store))
    operator_keys = known_keys(settings.operator_key_file, operator)
    with secure_channel(settings.audit.target, settings.audit.ca_file, settings.party) as channel:
        stub = audit_pb2_grpc.DirectoryStub(channel)
        try:
            answer = stub.ListKeyBundles(audit_pb2.ListKeyBundlesRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return {}
    facts = {}
    for item in answer.bundles:
        if sha256(item.statement).digest() == bundle:  # as the operator signed it: nothing attached
            facts["standing"] = item.standing
    listed = [item.statement for item in answer.revocations]
    at = revoked_from(listed, bundle, *operator_keys)
    return facts if at is None else {**facts, "bundle_revoked_from": to_rfc3339(at)}


def _service_facts(settings: NodeSettings, endpoint: str) -> dict[str, Any]:
    with secure_channel(endpoint, settings.tls.ca) as channel:
        stub = execution_pb2_grpc.InferenceStub(channel)
        try:
            answer = stub.GetKeyBundle(execution_pb2.GetKeyBundleRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return {"answers": False, "why": error_from_rpc(error).detail}
    facts = {"answers": True, "bundle_witnessed": bool(answer.tlog_proof)}
    if answer.refuses:
        return {**facts, "takes_requests": False, "why": answer.refuses}
    return {**facts, "takes_requests": True}
