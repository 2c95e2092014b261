"""Configuration shared by witnesses, custodians and nodes: whom they believe."""

from shared.runtime.config import Settings
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.policy import LogPolicy


class LogSettings(Settings):
    """A log and the witnesses whose quorum makes a checkpoint count."""

    origin: str
    """Origin line of the log."""
    vkeys: tuple[str, ...]
    """The log's verification keys; all of them must sign."""
    witnesses: tuple[str, ...] = ()
    """The witnesses' verification keys."""
    quorum: int = 1

    def policy(self) -> LogPolicy:
        """Return the log policy for offline verification."""
        return LogPolicy.from_vkeys(
            logs=self.vkeys, witnesses=self.witnesses, threshold=self.quorum
        )


class WorkerSettings(Settings):
    """An audit worker that is trusted as one."""

    name: str
    signing_key: str
    """Hex of the raw Ed25519 public key."""
    hpke_key: str
    """Hex of the raw HPKE public key."""

    def keys(self) -> tuple[bytes, bytes]:
        """Return the signing key and the HPKE key; CONFIGURATION names the one that is invalid."""
        return (
            key_bytes(self.signing_key, f"the signing key of {self.name}"),
            key_bytes(self.hpke_key, f"the HPKE key of {self.name}"),
        )


def key_bytes(text: str, what: str) -> bytes:
    """Return the bytes of a key that a configuration file gives in hex."""
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{what} is not hexadecimal") from error
