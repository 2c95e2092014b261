"""Where alerts go: the table `[alerts]` of worker.toml."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from shared.runtime.config import Settings


class AlertSettings(Settings):
    """A webhook of the operator's own choice: what it may reach is decided by whoever writes this file."""

    url: str
    """https:// only. It is called as it is; a redirect is not followed."""
    secret_file: Path
    """Text of at least 16 characters, under which every message is authenticated (HMAC-SHA-256)."""
    ca_file: Path | None = None
    """The authority of the receiver's certificate (PEM); the system's own authorities if it is not named."""
    timeout_seconds: float = Field(default=10, gt=0, le=60)

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("must be https://host/…")
        return value
