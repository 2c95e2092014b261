"""What `up` renews while everything runs: the certificates that its local authority issues, and its own tokens."""

import time
from datetime import datetime
from pathlib import Path

from shared.installation.commands import Commands
from shared.installation.layout import ORIGIN, WITNESS, WORKERS, Plan
from shared.runtime.certificates import life_of
from shared.runtime.party import Party, PartyFiles, PartyRole
from shared.runtime.tls import LocalCA, TlsFiles

HOSTS = ("localhost", "127.0.0.1", "::1")
TOKENS = ("auditor", "finance")
"""The roles for which `up` keeps a token."""
TOKEN_RENEWAL_S = 60 * 86_400
"""Age of a token's file at which it is renewed: two thirds of what `token create` gives it."""


class Credentials:
    """The certificates and tokens of one installation."""

    def __init__(self, plan: Plan, commands: Commands) -> None:
        self._plan = plan
        self._commands = commands

    @property
    def audit_config(self) -> Path:
        """The audit server's configuration."""
        return self._plan.path("audit", "audit.toml")

    def certificates(self, now: datetime | None = None) -> dict[str, TlsFiles]:
        """Issue certificates that are missing or near their expiry; run at start and repeatedly after that, so they are renewed."""
        authority = LocalCA.load_or_create(self._plan.path("ca"), now=now)
        return {
            name: authority.issue(name, HOSTS, folder=self._plan.path(name, "tls"), now=now)
            for name in self._servers
        }

    def party_certificates(self, now: datetime | None = None) -> dict[str, PartyFiles]:
        """Do the same for the certificates that name parties to each other."""
        authority = LocalCA.load_or_create(self._plan.path("ca"), now=now)
        return {
            name: authority.issue_party(party, folder=self._plan.path(name, "tls"), now=now)
            for name, party in self._callers.items()
        }

    def renew(self, now: datetime | None = None) -> None:
        """Renew certificates that are near their expiry, and say which; running servers reload them by themselves."""
        shown = {
            **{(name, ""): self._plan.path(name, "tls", f"{name}.pem") for name in self._servers},
            **{
                (name, "party's "): self._plan.path(name, "tls", "party.pem")
                for name in self._callers
            },
        }
        before = {which: life_of(path) for which, path in shown.items()}
        self.certificates(now)
        self.party_certificates(now)
        for (name, kind), path in shown.items():
            if (life := life_of(path)) is not None and life != before[name, kind]:
                self._commands.say(name, f"{kind}certificate renewed until {life.end:%Y-%m-%d}")

    async def renew_tokens(self, now: float | None = None) -> None:
        """Renew the tokens of this machine's auditor and finance person once they have lived two thirds of their life."""
        moment = time.time() if now is None else now
        due = {
            role: file
            for role in TOKENS
            if moment - (file := self.token(role)).stat().st_mtime > TOKEN_RENEWAL_S
        }
        if not due:
            return
        config = ("--config", self.audit_config)
        listed = await self._commands.json("token", "list", "--json", *config)
        for role, file in due.items():
            own = [row["id"] for row in listed if row["role"] == role and row["revoked"] is None]
            await self._commands.run("token", "renew", str(max(own)), "--out", file, *config)
            self._commands.say("audit", f"the token of role {role} is renewed")

    def token(self, role: str) -> Path:
        """Return the file of the token that is kept for a role."""
        return self._plan.path("audit", f"{role}.token")

    @property
    def _servers(self) -> tuple[str, ...]:
        nodes = (node.name for node in self._plan.nodes)
        return ("audit", WITNESS, *self._plan.custodians, *nodes)

    @property
    def _callers(self) -> dict[str, Party]:
        """Whoever calls other parties, by the name of its folder."""
        return {
            "audit": Party(PartyRole.AUDIT, ORIGIN),
            **{name: Party(PartyRole.WORKER, name) for name in WORKERS},
            **{node.name: Party(PartyRole.NODE, node.issuer) for node in self._plan.nodes},
        }
