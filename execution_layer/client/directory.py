"""The key directory, which is not trusted at all: every key bundle is checked against the policy before it is used.

It is read from the audit server; if that does not answer, from the mirrors of the log that the policy names; if none of them
does, from what the archive has kept. Whoever lists a key bundle, the same checks are made.

A key bundle counts if (1) an operator that the policy pins signed it, with a key that it had then by the log (protocol §2.3),
(2) it is in a log checkpoint that the policy's quorum witnessed, no longer ago than the policy accepts, and that is consistent
with what was shown before, (3) it is live now, (4) no revocation by its operator is known that is also in the log, (5) its node
stands as well as the policy demands, (6) the policy uses such nodes, and (7) its evidence, if it carries any, affirms what the
policy demands. Stages of chains pass the same checks (`chains.py` judges the chain). For (5) the directory's word is taken: it
can keep a client from a node, and does nothing for one. Its other unsigned claims, such as the listing's own `revoked`, are
believed in neither direction. A listing can omit a new revocation or the end of a key: to learn of it at once, follow the public
statements (`counterfoil log monitor`). All mirrors are asked, so one honest mirror shows what the others omit.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import grpc

from execution_layer.client.archive import Archive
from execution_layer.client.attesting import Attesting
from execution_layer.client.chains import Terms, as_stage, orderable
from execution_layer.client.entries import NodeEntry
from execution_layer.client.log_memory import AUDIT_SERVER, NO_ANSWER, LogMemory, check_age
from execution_layer.client.mirrors import Listing, Mirror, ask_all
from execution_layer.client.operators import Operators
from execution_layer.client.policy import ClientPolicy
from execution_layer.client.prices import fetch_cards
from execution_layer.client.reading import layers_of
from shared.codec.moment import now_ms
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import error_from_rpc
from shared.statements.cose import open_as, parse_statement
from shared.statements.keys import KeyBundle, Revocation, stale_bundle
from shared.statements.ratecards import RateCard
from shared.translog.policy import LogPolicy
from shared.translog.tlog_proof import VerifiedInclusion, verify_tlog_proof
from shared.verification.standing import Standing

_log = logging.getLogger(__name__)
MAX_BUNDLES: Final = 4096
FRESH_S: Final = 30.0
TIMEOUT_S: Final = 10.0
KEPT: Final = "the archive"
"""Where a listing comes from that was kept."""
MAX_DETAIL: Final = 2000
PATIENCE_S: Final = 10.0
"""How long to wait for a first key bundle's proof."""
POLL_S: Final = 0.25


def check_bundle(
    listed: audit_pb2.KeyBundleEntry,
    policy: ClientPolicy,
    operators: Operators,
    log: LogPolicy,
    now: int,
    revoked: Mapping[tuple[bytes, str], int],
    max_age_s: int,
) -> NodeEntry:
    """Run the first six checks; UNTRUSTED_KEY, BAD_SIGNATURE, NOT_WITNESSED, BAD_PROOF or STALE_KEY.

    `revoked` maps key bundles with a proved revocation, and the revoking operator, to the time (ms) from which it counts;
    `max_age_s` bounds the checkpoint's age.
    """
    bundle, statement = open_as(KeyBundle, listed.statement, None)
    operators.verify(statement, bundle.operator)  # (1)
    if not listed.tlog_proof:
        raise CounterfoilError(
            Code.NOT_WITNESSED, f"the key bundle of {bundle.issuer} has no proof"
        )
    included = verify_tlog_proof(listed.tlog_proof, statement.entry, log)  # (2)
    operators.check_place(statement, bundle.operator, included.index)
    check_age(included.witnessed, max_age_s)
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
    policy.nodes.check(bundle)  # (6)
    policy.rate_card(bundle.issuer)  # an operator whose prices are not accepted is not used
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
    listed: audit_pb2.RevocationEntry, operators: Operators, log: LogPolicy
) -> tuple[Revocation, VerifiedInclusion]:
    """Check a revocation: signed by a pinned operator, in the witnessed log; it ends only that operator's key bundles."""
    statement = parse_statement(listed.statement, expected=Revocation.TYPE)
    operators.verify(statement, statement.issuer)
    included = verify_tlog_proof(listed.tlog_proof, statement.entry, log)
    operators.check_place(statement, statement.issuer, included.index)
    return statement.read(Revocation), included


def newest(nodes: Sequence[NodeEntry]) -> list[NodeEntry]:
    """Return each node's newest key bundle, in order of the nodes' names."""
    found: dict[str, NodeEntry] = {}
    for node in sorted(nodes, key=lambda node: node.bundle.not_before):
        found[node.name] = node
    return [found[name] for name in sorted(found)]


class Directory:
    """Nodes that serve a model; what was read is used for half a minute."""

    def __init__(
        self,
        policy: ClientPolicy,
        archive: Archive,
        memory: LogMemory,
        channel: grpc.aio.Channel,
        mirrors: Sequence[Mirror] = (),
    ) -> None:
        self._policy = policy
        self._log = policy.log.policy()
        self._attesting = Attesting(policy.attestation)
        self._operators = Operators(policy)
        self._archive = archive
        self._memory = memory
        self._mirrors = mirrors
        self._channel = channel
        self._stub = audit_pb2_grpc.DirectoryStub(channel)
        self._cards: dict[str, RateCard] = {}
        """Rate cards that could be had, by the policy's names."""
        self._known: dict[bytes, tuple[float, list[NodeEntry]]] = {}
        self._turns: dict[bytes, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.refused: list[str] = []
        """Why key bundles in the last listing were refused."""

    async def nodes(self, model_root: bytes, *, since: float = float("-inf")) -> list[NodeEntry]:
        """Return the usable nodes by a listing that was read after `since` (monotonic), or is less than `FRESH_S` old.

        Concurrent callers share one reading. Raises STALE_KEY, with the reasons, if there is no usable node, NOT_WITNESSED if
        all there are have waited for their proofs longer than `PATIENCE_S`, and UNAVAILABLE if nobody answers and nothing
        that was kept is recent enough.
        """
        async with self._turns[model_root]:
            read_at, nodes = self._known.get(model_root, (float("-inf"), []))
            live = [node for node in nodes if node.is_live(now_ms())]
            if live and read_at > since and time.monotonic() - read_at < FRESH_S:
                return live
            patient_until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    nodes = await self._ask(model_root)
                    break
                except CounterfoilError as error:
                    if error.code is not Code.NOT_WITNESSED or time.monotonic() > patient_until:
                        raise
                await asyncio.sleep(POLL_S)  # a node has just registered; its proof is on the way
            self._known[model_root] = (time.monotonic(), nodes)
            return nodes

    async def offers(self, model_root: bytes) -> list[NodeEntry]:
        """Return every node with an accepted key bundle for a model: those that have it whole, heads without their stages, and
        stages. STALE_KEY, with the reasons, if there is none; otherwise as `nodes`.
        """
        async with self._turns[model_root]:
            return await self._ask(model_root, stages_too=True)

    async def _ask(self, model_root: bytes, *, stages_too: bool = False) -> list[NodeEntry]:
        """Ask the audit server, then mirrors, then the archive."""
        request = audit_pb2.ListKeyBundlesRequest(model_root=model_root)
        try:
            answer = await self._stub.ListKeyBundles(request, timeout=TIMEOUT_S)
        except grpc.RpcError as rpc_error:
            error = error_from_rpc(rpc_error, AUDIT_SERVER)
            if error.code not in NO_ANSWER:
                raise error from rpc_error
            return await self._without_audit_server(model_root, error, stages_too)
        await self._learn(answer)
        await self._remember_standings(answer)
        age_s = self._policy.max_checkpoint_age_s
        return await self._read(answer, model_root, AUDIT_SERVER, age_s, stages_too)

    async def _without_audit_server(
        self, model_root: bytes, unanswered: CounterfoilError, stages_too: bool
    ) -> list[NodeEntry]:
        """Return the nodes that a mirror lists or, if none does, those kept: under checkpoints within `max_listing_age_s`."""
        shown, failed = await ask_all(self._mirrors)
        for one in shown:
            try:
                await self._learn(one.listing)
            except CounterfoilError as error:
                if error.code is Code.FORK:
                    raise
        listings = [(one.source, one.listing) for one in shown]
        for source, listing in [*listings, (KEPT, self._kept())]:
            self._add_standings(listing)
            try:
                age_s = self._policy.max_listing_age_s
                return await self._read(listing, model_root, source, age_s, stages_too)
            except CounterfoilError as error:
                if error.code is Code.FORK:
                    raise
                failed.append(error)
        raise CounterfoilError(
            unanswered.code,
            "; ".join([unanswered.detail, *(error.detail for error in failed)])[:MAX_DETAIL],
            remedy="Check the audit server's address and the network; `mirrors` in client.toml names others that list nodes.",
            retry_after_s=unanswered.retry_after_s,
        )

    def _kept(self) -> Listing:
        """Return the key bundles that were usable when they were last listed, and have not expired."""
        listing = Listing()
        for statement, proof in self._archive.live_bundles(now_ms(), MAX_BUNDLES):
            listing.bundles.add(statement=statement, tlog_proof=proof)
        return listing

    async def _read(
        self, listing: Listing, model_root: bytes, source: str, max_age_s: int, stages_too: bool
    ) -> list[NodeEntry]:
        """Return the listing's usable nodes, and keep their key bundles; the errors of `nodes`."""
        called = "the directory" if source == AUDIT_SERVER else source
        listed, refused = await self._check(
            listing.bundles[:MAX_BUNDLES], model_root, source, max_age_s
        )
        nodes = listed
        if not stages_too:
            if source == AUDIT_SERVER:
                await self._learn_cards(listed)
            nodes, problems = self._orderable(listed, refused, model_root)
            refused += problems
        self.refused = [error.detail for error in refused]
        if not stages_too:
            self.refused += [as_stage(node) for node in listed if node.bundle.layers is not None]
        if not nodes:
            reasons = "; ".join(self.refused[:5])
            soon = any(error.code is Code.NOT_WITNESSED for error in refused)
            raise CounterfoilError(
                Code.NOT_WITNESSED if soon else Code.STALE_KEY,
                f"{called} has no key bundle that the policy accepts"
                + (f": {reasons}" if reasons else ""),
                remedy="Check that nodes are running and registered, and check the policy's pins.",
            )
        if source == KEPT:  # the checkpoints were accepted when these were listed
            return nodes
        used = [place for node in nodes for place in node.places]
        for witnessed in {node.witnessed.note.encode(): node.witnessed for node in used}.values():
            await self._memory.accept(witnessed)
            await self._memory.refuse_older(witnessed, called)
        for node in used:
            await self._archive.remember_bundle(
                node.entry, node.statement, node.proof, node.bundle.not_after
            )
        return nodes

    async def _learn_cards(self, listed: Sequence[NodeEntry]) -> None:
        """Read the rate cards of what is listed, if there are chains, whose prices are added up."""
        names = {self._policy.card_name(node.name) for node in listed}
        if any(node.bundle.stages for node in listed) and not names <= set(self._cards):
            with contextlib.suppress(CounterfoilError):
                self._cards |= await fetch_cards(self._policy, self._channel)

    def _orderable(
        self, listed: Sequence[NodeEntry], refused: Sequence[CounterfoilError], model_root: bytes
    ) -> tuple[list[NodeEntry], list[CounterfoilError]]:
        layers = layers_of(self._policy, model_root)
        terms = Terms(self._policy, model_root, layers, self._cards, now_ms())
        return orderable(listed, terms, [error.detail for error in refused])

    async def _learn(self, listing: Listing) -> None:
        """Store the operators' keys and the revocations that are proved; any other is logged and ends nothing."""
        shown = listing.identities[:MAX_BUNDLES]
        self._operators.learn((item.statement, item.tlog_proof) for item in shown)
        for item in listing.revocations[:MAX_BUNDLES]:
            try:
                value, included = check_revocation(item, self._operators, self._log)
            except CounterfoilError as error:
                _log.warning("the directory shows a revocation that does not count: %s", error)
                continue
            operator = parse_statement(item.statement).issuer
            await self._archive.remember_revocation(
                value, operator, item.statement, item.tlog_proof
            )
            await self._memory.accept(included.witnessed)

    async def _remember_standings(self, answer: Listing) -> None:
        """Keep what the audit server says of nodes of pinned operators, for when it does not answer."""
        known, told = self._archive.standings(), dict[str, str]()
        for item in answer.bundles[:MAX_BUNDLES]:
            with contextlib.suppress(CounterfoilError):
                statement = parse_statement(item.statement, expected=KeyBundle.TYPE)
                said = _standing(item).value
                if known.get(statement.subject) != said:
                    self._operators.verify(statement, statement.issuer)  # only real nodes take room
                    told[statement.subject] = said
        if told:
            await self._archive.remember_standings(told)

    def _add_standings(self, listing: Listing) -> None:
        """Say of each node what the audit server last said; mirrors cannot know."""
        known = self._archive.standings()
        for item in listing.bundles:
            with contextlib.suppress(CounterfoilError):
                item.standing = known.get(parse_statement(item.statement).subject, "")

    async def _check(
        self,
        listed: Sequence[audit_pb2.KeyBundleEntry],
        model_root: bytes,
        source: str,
        max_age_s: int,
    ) -> tuple[list[NodeEntry], list[CounterfoilError]]:
        nodes, refused = [], []
        revoked = self._archive.revoked_at()
        for item in listed:
            try:
                node = check_bundle(
                    item, self._policy, self._operators, self._log, now_ms(), revoked, max_age_s
                )
                if model_root in node.bundle.model_roots:
                    claims = await self._attesting.check(node.bundle, now_ms())  # (7)
                    nodes.append(replace(node, source=source, claims=claims))
            except CounterfoilError as error:
                refused.append(error)
        return newest(nodes), refused
