"""Witnesses and custodians as the audit layer reaches them: CBOR over HTTPS.

| path | asks | answers |
|---|---|---|
| `POST /beacon/commitment` | `{epoch}` | a beacon-commitment statement |
| `POST /beacon/reveal` | `{epoch, open, open_proof, seal, seal_proof}` | a beacon-reveal statement |
| `POST /release` (custodians) | the release case of `shared.verification.release_check` | `{release}` or `{report}` |
| `POST /share` (custodians) | `{request, proof}` | `{share}` |
"""

import threading
import time
from pathlib import Path

import httpx

from shared.parties.beacon_service import CommitmentRequest, RevealRequest
from shared.parties.custody import MAX_SEALED_SHARE, CaseAnswer, ShareAnswer, ShareRequest
from shared.runtime.certificates import how_it_failed
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.party import PartyFiles
from shared.runtime.probe import refused_by
from shared.runtime.problems import from_problem
from shared.runtime.tls import client_context

CBOR = "application/cbor"
MAX_ANSWER = 1 << 20
MAX_UNANSWERED = 8
"""Requests that a party may leave unanswered before it gets no more: each holds a thread."""


class PartyClient:
    """One party's HTTPS endpoint. Its answers are untrusted until the caller has checked their signatures."""

    def __init__(
        self,
        name: str,
        url: str,
        ca_file: Path,
        party: PartyFiles | None = None,
        *,
        timeout_s: float = 10.0,
    ) -> None:
        self.name = name
        self._url, self._ca_file, self._party = url, ca_file, party
        self._timeout_s = timeout_s
        self._room = threading.BoundedSemaphore(MAX_UNANSWERED)
        self._http = httpx.Client(
            base_url=url,
            verify=client_context(ca_file, party),
            timeout=timeout_s,
            headers={"content-type": CBOR, "accept-encoding": "identity"},
        )

    def close(self) -> None:
        """Close the connection pool."""
        self._http.close()

    def post(self, path: str, message: bytes) -> bytes:
        """Send one CBOR message and return the answer's bytes; refusals keep the party's own code.

        Neither a long nor a slow answer takes more than `MAX_ANSWER` bytes and a few times the timeout.
        """
        if not self._room.acquire(blocking=False):
            raise CounterfoilError(
                Code.UNAVAILABLE, f"{self.name} has left {MAX_UNANSWERED} requests unanswered"
            )
        try:
            with self._http.stream("POST", path, content=message) as response:
                body = self._body(response)
        except httpx.HTTPError as error:
            why = refused_by(self._url, self._ca_file, self._party) or how_it_failed(error)
            raise CounterfoilError(
                Code.UNAVAILABLE, f"{self.name} does not answer: {why}"
            ) from error
        finally:
            self._room.release()
        if response.status_code != httpx.codes.OK:
            raise from_problem(response.status_code, body, self.name)
        return body

    def _body(self, response: httpx.Response) -> bytes:
        until = time.monotonic() + self._timeout_s
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > MAX_ANSWER:
                raise CounterfoilError(Code.MALFORMED, f"{self.name}'s answer is too long")
            if time.monotonic() > until:
                raise CounterfoilError(Code.UNAVAILABLE, f"{self.name} does not finish its answer")
        return bytes(body)


class BeaconClient(PartyClient):
    """A party of the beacon: a witness or a custodian."""

    def commitment(self, epoch: int) -> bytes:
        """Return the party's signed commitment for `epoch`."""
        return self.post("/beacon/commitment", CommitmentRequest(epoch).to_cbor())

    def reveal(
        self, epoch: int, opened: bytes, open_proof: str, seal: bytes, seal_proof: str
    ) -> bytes:
        """Show the witnessed seal and return the party's signed reveal."""
        request = RevealRequest(epoch, opened, open_proof, seal, seal_proof)
        return self.post("/beacon/reveal", request.to_cbor())


class CustodianClient(BeaconClient):
    """A custodian: signs a release for one logged request, and hands out its share once the release is logged."""

    def release(self, case: bytes) -> CaseAnswer:
        """Return the custodian's answer to an encoded release case."""
        return CaseAnswer.from_cbor(self.post("/release", case), max_bytes=MAX_ANSWER)

    def share(self, request: bytes, proof: str) -> bytes:
        """Return the sealed share for a request (its entry), against the tlog-proof of its release."""
        answer = self.post("/share", ShareRequest(request, proof).to_cbor())
        return ShareAnswer.from_cbor(answer, max_bytes=MAX_SEALED_SHARE + 64).share
