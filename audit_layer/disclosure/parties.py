"""Witnesses and custodians as the audit layer reaches them: CBOR over HTTPS.

| path | asks | answers |
|---|---|---|
| `POST /beacon/commitment` | `{epoch}` | a beacon-commitment statement |
| `POST /beacon/reveal` | `{epoch, open, open_proof, seal, seal_proof}` | a beacon-reveal statement |
| `POST /release` (custodians) | the release case of `shared.verification.release_check` | `{release, share}` |
"""

from pathlib import Path

import httpx

from shared.codec import cbor
from shared.codec.fields import Reader
from shared.parties.beacon_service import CommitmentRequest, RevealRequest
from shared.runtime.certificates import how_it_failed
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.problems import from_problem
from shared.runtime.tls import client_context

CBOR = "application/cbor"
MAX_ANSWER = 1 << 20


class PartyClient:
    """One party's HTTPS endpoint. Its answers are untrusted until the caller has checked their signatures."""

    def __init__(self, name: str, url: str, ca_file: Path, *, timeout_s: float = 10.0) -> None:
        self.name = name
        self._http = httpx.Client(base_url=url, verify=client_context(ca_file), timeout=timeout_s)

    def close(self) -> None:
        """Close the connection pool."""
        self._http.close()

    def post(self, path: str, message: bytes) -> bytes:
        """Send one CBOR message and return the answer's bytes; refusals keep the party's own code."""
        try:
            response = self._http.post(path, content=message, headers={"content-type": CBOR})
        except httpx.HTTPError as error:
            raise CounterfoilError(
                Code.UNAVAILABLE, f"{self.name} does not answer: {how_it_failed(error)}"
            ) from error
        if response.status_code != httpx.codes.OK:
            raise from_problem(response.status_code, response.content, self.name)
        if len(response.content) > MAX_ANSWER:
            raise CounterfoilError(Code.MALFORMED, f"{self.name}'s answer is too long")
        return response.content


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
    """A custodian: releases one share for one logged request."""

    def release(self, case: bytes) -> tuple[bytes, bytes]:
        """Return (disclosure-release statement, sealed share) for an encoded release case."""
        read = Reader(cbor.decode(self.post("/release", case)), f"{self.name}'s answer")
        release, share = read.bytes("release"), read.bytes("share")
        read.done()
        return release, share
