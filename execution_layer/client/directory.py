"""The key directory, which is not trusted at all: every key bundle is checked against the policy before it is used.

A key bundle counts if (1) an operator that the policy pins signed it, (2) it is in a log checkpoint that the
policy's quorum witnessed, no longer ago than the policy accepts, and that is consistent with what was shown before, (3) it
is live now, (4) no revocation by its operator is known that is also in the log, and (5) its node stands as well as the policy
demands. For (5) the directory's word is taken: it can keep a client from a node, and does nothing for one. Its other
unsigned claims, such as the listing's own `revoked`, are believed in neither direction. A listing can omit a new revocation:
to learn of it at once, follow the public statements (`counterfoil log monitor`).
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from execution_layer.client.archive import Archive
from execution_layer.client.log_memory import AUDIT_SERVER, LogMemory, check_age
from execution_layer.client.policy import ClientPolicy
from shared.codec.moment import now_ms
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.statements.cose import open_as, parse_statement, verify_signature
from shared.statements.keys import KeyBundle, Revocation, stale_bundle
from shared.translog.policy import LogPolicy, Witnessed
from shared.translog.tlog_proof import VerifiedInclusion, verify_tlog_proof
from shared.verification.standing import Standing

_log = logging.getLogger(__name__)
MAX_BUNDLES: Final = 4096
FRESH_S: Final = 30.0
STALE_S: Final = 600.0
"""How long a listing may be used if the directory does not answer: a revocation could be missed."""
TIMEOUT_S: Final = 20.0
PATIENCE_S: Final = 10.0
"""How long to wait for a first key bundle's proof."""
POLL_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A usable node, with the key bundle for which requests are sealed."""

    bundle: KeyBundle
    entry: bytes
    statement: bytes
    proof: str
    witnessed: Witnessed
    standing: Standing = Standing.NEW
    """As the directory says."""

    @property
    def name(self) -> str:
        """operator/node"""
        return self.bundle.issuer


def check_bundle(
    listed: audit_pb2.KeyBundleEntry,
    policy: ClientPolicy,
    log: LogPolicy,
    now: int,
    revoked: Mapping[tuple[bytes, str], int],
) -> NodeEntry:
    """Run the five checks; UNTRUSTED_KEY, BAD_SIGNATURE, NOT_WITNESSED, BAD_PROOF or STALE_KEY.

    `revoked` maps key bundles with a proved revocation, and the revoking operator, to the time (ms) from which it counts.
    """
    claimed, _ = open_as(KeyBundle, listed.statement, None)
    key = policy.operator_key(claimed.operator)
    if key is None:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, f"the policy does not pin operator {claimed.operator}"
        )
    bundle, statement = open_as(KeyBundle, listed.statement, key)  # (1)
    if not listed.tlog_proof:
        raise CounterfoilError(
            Code.NOT_WITNESSED, f"the key bundle of {bundle.issuer} has no proof"
        )
    included = verify_tlog_proof(listed.tlog_proof, statement.entry, log)  # (2)
    check_age(included.witnessed, policy.max_checkpoint_age_s)
    if not bundle.is_live(now):  # (3)
        raise stale_bundle(bundle, now)
    if revoked.get((statement.entry, bundle.operator), now + 1) <= now:  # (4)
        raise CounterfoilError(Code.STALE_KEY, f"the key bundle of {bundle.issuer} is revoked")
    standing = _standing(listed)
    if standing.rank < policy.min_standing.rank:  # (5)
        raise CounterfoilError(
            Code.UNTRUSTED_KEY,
            f"{bundle.issuer} is {standing}, and the policy demands at least {policy.min_standing}",
            remedy="`counterfoil audit standing` shows why; min_standing in client.toml says what is demanded.",
        )
    policy.rate_card(bundle.operator)  # an operator whose prices are not accepted is not used
    return NodeEntry(
        bundle, statement.entry, listed.statement, listed.tlog_proof, included.witnessed, standing
    )


def _standing(listed: audit_pb2.KeyBundleEntry) -> Standing:
    """Return what the directory says about a node; one that says nothing known has no record to show."""
    try:
        return Standing(listed.standing)
    except ValueError:
        return Standing.NEW


def check_revocation(
    listed: audit_pb2.RevocationEntry, policy: ClientPolicy, log: LogPolicy
) -> tuple[Revocation, VerifiedInclusion]:
    """Check a revocation: signed by a pinned operator, in the witnessed log; it ends only that operator's key bundles."""
    statement = parse_statement(listed.statement, expected=Revocation.TYPE)
    key = policy.operator_key(statement.issuer)
    if key is None:
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, f"the policy does not pin operator {statement.issuer[:64]}"
        )
    verify_signature(statement, key)
    included = verify_tlog_proof(listed.tlog_proof, statement.entry, log)
    return statement.read(Revocation), included


def newest(nodes: Sequence[NodeEntry]) -> list[NodeEntry]:
    """Return each node's newest key bundle, in order of the nodes' names."""
    found: dict[str, NodeEntry] = {}
    for node in sorted(nodes, key=lambda node: node.bundle.not_before):
        found[node.name] = node
    return [found[name] for name in sorted(found)]


class Directory:
    """Nodes that serve a model, read from the audit server and cached for half a minute (longer while it is unavailable)."""

    def __init__(
        self,
        policy: ClientPolicy,
        archive: Archive,
        memory: LogMemory,
        channel: grpc.aio.Channel,
    ) -> None:
        self._policy = policy
        self._log = policy.log.policy()
        self._archive = archive
        self._memory = memory
        self._stub = audit_pb2_grpc.DirectoryStub(channel)
        self._known: dict[bytes, tuple[float, list[NodeEntry]]] = {}
        self.refused: list[str] = []
        """Why key bundles in the last listing were refused."""

    async def nodes(self, model_root: bytes, *, refresh: bool = False) -> list[NodeEntry]:
        """Return the usable nodes. Raises STALE_KEY, with the reasons, if there is none, and
        NOT_WITNESSED if all there are have waited for their proofs longer than `PATIENCE_S`.
        """
        read_at, nodes = self._known.get(model_root, (float("-inf"), []))
        now, age_s = now_ms(), time.monotonic() - read_at
        live = [node for node in nodes if node.bundle.is_live(now)]
        if live and not refresh and age_s < FRESH_S:
            return live
        patient_until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self._read(model_root)
            except CounterfoilError as error:
                if live and error.code in {Code.UNAVAILABLE, Code.DEADLINE} and age_s < STALE_S:
                    return live  # the audit server is briefly unavailable; nodes keep serving
                if error.code is not Code.NOT_WITNESSED or time.monotonic() > patient_until:
                    raise
            await asyncio.sleep(POLL_S)  # a node has just registered; its proof is on the way

    async def _read(self, model_root: bytes) -> list[NodeEntry]:
        request = audit_pb2.ListKeyBundlesRequest(model_root=model_root)
        try:
            answer = await self._stub.ListKeyBundles(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error, AUDIT_SERVER) from error
        await self._learn(answer.revocations[:MAX_BUNDLES])
        nodes, refused = self._check(answer.bundles[:MAX_BUNDLES], model_root)
        self.refused = [error.detail for error in refused]
        if not nodes:
            reasons = "; ".join(error.detail for error in refused[:5])
            soon = any(error.code is Code.NOT_WITNESSED for error in refused)
            raise CounterfoilError(
                Code.NOT_WITNESSED if soon else Code.STALE_KEY,
                "the directory has no key bundle that the policy accepts"
                + (f": {reasons}" if reasons else ""),
                remedy="Check that nodes are running and registered, and check the policy's pins.",
            )
        for witnessed in {node.witnessed.note.encode(): node.witnessed for node in nodes}.values():
            await self._memory.accept(witnessed)
            self._check_newest(witnessed)
        for node in nodes:
            await self._archive.remember_bundle(node.entry, node.statement, node.proof)
        self._known[model_root] = (time.monotonic(), nodes)
        return nodes

    async def _learn(self, listed: Sequence[audit_pb2.RevocationEntry]) -> None:
        """Store the revocations that are proved; any other is logged and ends nothing."""
        for item in listed:
            try:
                value, included = check_revocation(item, self._policy, self._log)
            except CounterfoilError as error:
                _log.warning("the directory shows a revocation that does not count: %s", error)
                continue
            await self._memory.accept(included.witnessed)
            operator = parse_statement(item.statement).issuer
            await self._archive.remember_revocation(
                value, operator, item.statement, item.tlog_proof
            )

    def _check_newest(self, witnessed: Witnessed) -> None:
        """Refuse a listing under an older checkpoint than one seen before: it may hide what came since."""
        kept = self._archive.largest_checkpoint(witnessed.checkpoint.origin)
        if kept is not None and witnessed.checkpoint.size < kept.size:
            raise CounterfoilError(
                Code.NOT_WITNESSED,
                f"the directory shows the log at size {witnessed.checkpoint.size}; it had {kept.size} before",
                remedy="Try again; if this persists, the audit server was restored from an older state or hides entries.",
            )

    def _check(
        self, listed: Sequence[audit_pb2.KeyBundleEntry], model_root: bytes
    ) -> tuple[list[NodeEntry], list[CounterfoilError]]:
        nodes, refused = [], []
        revoked = self._archive.revoked_at()
        for item in listed:
            try:
                node = check_bundle(item, self._policy, self._log, now_ms(), revoked)
            except CounterfoilError as error:
                refused.append(error)
                continue
            if model_root in node.bundle.model_roots:
                nodes.append(node)
        return newest(nodes), refused
