"""Doubles for tests of node and client. Each says so in its name; none is reachable from the product."""

import asyncio
import time
from hashlib import sha256

from execution_layer.engine.protocol import EngineStats, Finished, FinishReason, TokenChunk
from shared.commitments.exact import Activations
from shared.proto.counterfoil.audit.v1 import audit_pb2, audit_pb2_grpc
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, parse_statement, read_as
from shared.statements.disclosures import AuditRequest
from shared.statements.logprobs import TokenLogprobs
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.notes import SignatureType, Signer
from shared.translog.proofs import consistency_proof, inclusion_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign
from shared.translog.tlog_proof import TlogProof
from shared.translog.tree import leaf_hash

ORIGIN = "log.test/fake"
EOS = 3


class FakeGeneration:
    """A generation of FakeEngine."""

    def __init__(self, engine, request):
        self.request = request
        self._engine = engine
        self.position = 0
        """How many tokens there are."""
        self._wanted = None
        self._changed = asyncio.Event()

    def cancel(self, reason=FinishReason.CANCELLED):
        self._wanted = self._wanted or reason
        self._changed.set()

    def release(self):
        """Go on where the engine holds it."""
        self._changed.set()

    @property
    def cached_prompt_tokens(self):
        resumed = self.request.resumed
        return resumed.cached if resumed and resumed.output_ids else self._engine.cached

    @property
    def cancelled_for(self):
        return self._wanted

    async def _until_told_or_late(self):
        try:
            async with asyncio.timeout_at(self.request.deadline):
                await self._changed.wait()
        except TimeoutError:
            self.cancel(FinishReason.DEADLINE)

    async def __aiter__(self):
        output = list(self.request.resumed.output_ids) if self.request.resumed else []
        settings = self.request.settings
        reason = FinishReason.LENGTH
        while len(output) < settings.max_tokens:
            if self._engine.dies_after == len(output):
                raise RuntimeError("the fake engine dies")
            if self._engine.holds_after == len(output):
                await self._until_told_or_late()
            elif self._engine.pause_s:
                await asyncio.sleep(self._engine.pause_s)
            if self._wanted is not None:
                reason = self._wanted
                break
            token = self._engine.token(self.request, self.request.delivered + len(output))
            output.append(token)
            self.position = len(output)
            yield TokenChunk(
                (token,), self._engine.text(token), self._engine.logprobs(settings, token)
            )
            if token == EOS:
                reason = FinishReason.STOP
                break
        yield Finished(
            finish_reason=reason,
            output_ids=tuple(output),
            activations=self._engine.activations(self.request.prompt_ids, output),
            prompt_tokens=len(self.request.prompt_ids),
            cached_prompt_tokens=self.cached_prompt_tokens,
            compute_ms=1,
        )


class FakeEngine:
    """A double of the engine: tokens and block hashes are hashes of what came before; it can stall and die."""

    def __init__(self, *, pause_s=0.0, holds_after=None, dies_after=None, stops_after=None):
        self.failures = 0
        self.cached = 0
        self.pause_s = pause_s
        self.holds_after = holds_after
        self.dies_after = dies_after
        self.stops_after = stops_after
        self.generations = []
        self.submitted = asyncio.Event()

    async def start(self):
        pass

    async def stop(self):
        for generation in self.generations:
            generation.cancel(FinishReason.FAILED)

    def submit(self, request):
        generation = FakeGeneration(self, request)
        self.generations.append(generation)
        self.submitted.set()
        return generation

    @property
    def stats(self):
        return EngineStats(0, 0, 0, 0, 0, 0, 0, 0, self.failures)

    def token(self, request, position):
        if self.stops_after == position:
            return EOS
        place = bytes([position, request.choice]) if request.choice else bytes([position])
        return 10 + sha256(request.seed + place).digest()[0]

    def text(self, token):
        """Return a token's text; a test may override it."""
        return "" if token == EOS else f"w{token} "

    def logprobs(self, settings, token):
        """Return what was requested; a test may substitute a liar."""
        if settings.logprobs is None:
            return ()
        top = tuple([token, 0, 1, 2, *range(300, 320)][: settings.logprobs])
        return (TokenLogprobs(-5, top, tuple(-5 - 1000 * n for n in range(len(top)))),)

    @staticmethod
    def activations(prompt, output):
        text = repr((tuple(prompt), tuple(output))).encode()
        return Activations((sha256(b"p" + text).digest(),), (sha256(b"o" + text).digest(),))


class FakeAudit(
    audit_pb2_grpc.IntakeServicer, audit_pb2_grpc.LogServicer, audit_pb2_grpc.DirectoryServicer
):
    """A double of the audit server: a real Merkle tree with a real witness's key, in memory, trusting everybody.

    It can be unavailable, refuse, forget to publish, or lie about revocation.
    """

    def __init__(self):
        self.log_signers = [
            Signer.generate(ORIGIN, SignatureType.ED25519),
            Signer.generate(ORIGIN, SignatureType.COSIGNATURE_MLDSA44),
        ]
        self.witness = Signer.generate("witness.test/one", SignatureType.COSIGNATURE_ED25519)
        self.statements = []
        self.orders = {}
        self.index = {}
        self.submissions = 0
        self.listed = 0
        self.deposits = []
        self.flagged = set()
        """Key bundles that the listing calls revoked, without a signature by anybody."""
        self.standing = ""
        """What the listing says of every node's standing."""
        self.hides_revocations = False
        self.hides_identities = False
        self.cards_shown = None
        """What is answered instead of the rate cards that are asked for."""
        self.forked = False
        self.clock = time.time
        self.away = False
        self.witnessing = True
        self.loses_answers = 0
        self.refusals = {}
        self.changed = asyncio.Condition()

    @property
    def log_keys(self):
        return [signer.verifier.vkey() for signer in self.log_signers]

    @property
    def witnesses(self):
        return [self.witness.verifier.vkey()]

    def receipts(self):
        parsed = [parse_statement(raw) for raw in self.statements]
        return [item for item in parsed if item.type == "receipt"]

    async def wait_for_receipts(self, count, timeout_s=10.0):
        async with self.changed:
            await asyncio.wait_for(
                self.changed.wait_for(lambda: len(self.receipts()) >= count), timeout_s
            )

    async def Submit(self, request, context):
        self._present()
        self.submissions += len(request.submissions)
        results = [self._submit(item) for item in request.submissions]
        async with self.changed:
            self.changed.notify_all()
        if self.loses_answers:
            self.loses_answers -= 1
            raise CounterfoilError(Code.UNAVAILABLE, "the answer was lost")
        return audit_pb2.SubmitResponse(results=results)

    def _submit(self, item):
        kind = parse_statement(item.statement).type
        if kind in self.refusals:
            code = self.refusals[kind]
            rejected = audit_pb2.Rejected(code=code.name, detail="refused by the test")
            return audit_pb2.SubmitResult(rejected=rejected)
        if kind == AuditRequest.TYPE and not self.has_receipt(item.statement):
            rejected = audit_pb2.Rejected(code=Code.NOT_FOUND.name, detail="no such receipt")
            return audit_pb2.SubmitResult(rejected=rejected)
        entry = entry_of(item.statement)
        known = entry in self.index
        self.append(item.statement, item.order)
        sequenced = audit_pb2.Sequenced(entry=entry, index=self.index[entry], duplicate=known)
        return audit_pb2.SubmitResult(sequenced=sequenced)

    def has_receipt(self, audit_request):
        return read_as(AuditRequest, audit_request).receipt in self.index

    def audit_requests(self):
        """What tenants asked to have audited, in the order of the log."""
        kinds = [(parse_statement(raw).type, raw) for raw in self.statements]
        return [raw for kind, raw in kinds if kind == AuditRequest.TYPE]

    def append(self, statement, order=b""):
        """Put a statement into the log, once."""
        entry = entry_of(statement)
        if entry not in self.index:
            self.index[entry] = len(self.statements)
            self.statements.append(statement)
            self.orders[entry] = order

    async def Deposit(self, request, context):
        self._present()
        self.deposits.append(request)
        return audit_pb2.DepositResponse()

    async def GetProof(self, request, context):
        self._present()
        if request.entry not in self.index:
            raise CounterfoilError(Code.NOT_FOUND, "the log has no such entry")
        if not self.witnessing:
            raise CounterfoilError(Code.NOT_WITNESSED, "not yet")
        index = self.index[request.entry]
        return audit_pb2.GetProofResponse(tlog_proof=self.proof(index), index=index)

    async def ListKeyBundles(self, request, context):
        self._present()
        self.listed += 1
        found = []
        for raw in self.statements:
            item = parse_statement(raw)
            if item.type != "key-bundle":
                continue
            if request.model_root and request.model_root not in item.payload["model_roots"]:
                continue
            proof = self.proof(self.index[item.entry]) if self.witnessing else ""
            found.append(
                audit_pb2.KeyBundleEntry(
                    statement=raw,
                    tlog_proof=proof,
                    revoked=item.entry in self.flagged,
                    standing=self.standing,
                )
            )
        ended = [] if self.hides_revocations else self._revocations()
        about = self._identities(lambda subject: subject.startswith("operator/"))
        return audit_pb2.ListKeyBundlesResponse(bundles=found, revocations=ended, identities=about)

    async def ListIdentityKeys(self, request, context):
        self._present()
        wanted = request.identities
        return audit_pb2.ListIdentityKeysResponse(
            identities=self._identities(lambda subject: subject in wanted)
        )

    async def GetRateCards(self, request, context):
        self._present()
        found = [raw for raw in self.statements if entry_of(raw) in request.entries]
        shown = found if self.cards_shown is None else self.cards_shown
        return audit_pb2.GetRateCardsResponse(statements=shown)

    def _identities(self, wanted):
        parsed = [parse_statement(raw) for raw in self.statements]
        return [
            audit_pb2.IdentityEntry(statement=item.raw, tlog_proof=self.proof(index))
            for index, item in enumerate(parsed)
            if self.witnessing
            and not self.hides_identities
            and item.type.startswith("identity-key")
            and wanted(item.subject)
        ]

    def _revocations(self):
        return [
            audit_pb2.RevocationEntry(statement=raw, tlog_proof=self.proof(index))
            for index, raw in enumerate(self.statements)
            if parse_statement(raw).type == "revocation"
        ]

    async def GetConsistency(self, request, context):
        self._present()
        lookup = lookup_in(self.leaves())
        return audit_pb2.GetConsistencyResponse(
            proof=consistency_proof(request.old_size, request.new_size, lookup)
        )

    def leaves(self):
        """Return the leaf hashes: those of the statements, or of another history of the same length."""
        leaves = [leaf_hash(entry_of(raw)) for raw in self.statements]
        return [leaf_hash(b"another".ljust(32)), *leaves[1:]] if self.forked else leaves

    def proof(self, index, size=None):
        """Return a tlog-proof under a checkpoint of everything (or of `size` entries), signed and cosigned now."""
        leaves = self.leaves()[:size]
        lookup = lookup_in(leaves)
        checkpoint = Checkpoint(ORIGIN, len(leaves), root_at(len(leaves), lookup))
        now = int(self.clock())
        note = sign(checkpoint, self.log_signers, time_s=now)
        note = note.with_signatures((cosign(self.witness, checkpoint, time_s=now),))
        path = tuple(inclusion_proof(index, len(leaves), lookup))
        return TlogProof(index, path, note.encode()).encode()

    def _present(self):
        if self.away:
            raise CounterfoilError(Code.UNAVAILABLE, "the fake audit server is away")


class FakeWire:
    """A double of the network: one address whose other end can go away, and come back elsewhere.

    The address stays taken throughout, so no other process can get it while nobody answers.
    """

    def __init__(self):
        self.target = None
        self._server = None
        self._open = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    @property
    def address(self):
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def join(self, target):
        """Forward new connections to `host:port`."""
        self.target = target

    def cut(self):
        """Break existing connections, and refuse new ones until `join`."""
        self.target = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _connected(self, reader, writer):
        if self.target is None:
            writer.transport.abort()
            return
        host, _, port = self.target.rpartition(":")
        ends = [(reader, writer), await asyncio.open_connection(host, int(port))]
        self._open |= {end for _, end in ends}
        try:
            (near, near_out), (far, far_out) = ends
            await asyncio.gather(_pump(near, far_out), _pump(far, near_out))
        finally:
            for _, end in ends:
                end.transport.abort()
                self._open.discard(end)


async def _pump(reader, writer):
    """Copy until either end is gone."""
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
