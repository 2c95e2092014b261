"""The file of the tenant's tag key: 64 hexadecimal digits, for its owner only, the same on all of the tenant's machines."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from execution_layer.client.policy import ClientPolicy
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import create_private, private_folder
from shared.runtime.printable import command_line
from shared.statements.tag_key_file import load_tag_key
from shared.statements.tags import KEY_BYTES, TagKey

FILE: Final = "tags.key"
"""Its name beside the key that signs orders, unless the policy names another file."""


class Tagger:
    """Blinds the tags of one client's orders; the key is read, or made, when the first order has tags."""

    def __init__(self, policy: ClientPolicy) -> None:
        self._policy = policy
        self._key: TagKey | None = None

    def blinded(self, tags: Mapping[str, str] | None) -> bytes | None:
        """Return an order's `cost_centre`; None for an order without tags."""
        if tags is None:
            return None
        if self._key is None:
            self._key = load_or_create_tag_key(self._policy)
        return self._key.blind(self._policy.tenant, tags)


def tag_key_file(policy: ClientPolicy) -> Path:
    """Return where the client's tag key is, or will be."""
    return policy.tag_key_file or policy.tenant_key_file.with_name(FILE)


def load_or_create_tag_key(policy: ClientPolicy) -> TagKey:
    """Return the client's tag key, made at its first use; two processes that begin at once get the same key.
    A file that the policy names is never made: where it is not there, a new key would quietly join no earlier order.
    """
    path = tag_key_file(policy)
    if policy.tag_key_file is None and not path.exists():
        _create(path, TagKey(secrets.token_bytes(KEY_BYTES)))
    return load_tag_key(path)


def import_tag_key(policy: ClientPolicy, source: Path) -> TagKey:
    """Take over the key that another machine of the tenant uses. CONFLICT, if this one has already another."""
    key = load_tag_key(source)
    path = tag_key_file(policy)
    if not _create(path, key) and load_tag_key(path) != key:
        raise CounterfoilError(
            Code.CONFLICT,
            f"{path} holds another tag key, so this client's orders so far do not join with the other machine's",
            remedy=f"Move it away first: {command_line('mv', path, path.with_name(path.name + '.old'))}. The tags of"
            " those orders stay in the archive, and `counterfoil client tags` reads them there.",
        )
    return key


def _create(path: Path, key: TagKey) -> bool:
    try:
        return create_private(
            private_folder(path.parent) / path.name, f"{key.raw.hex()}\n".encode()
        )
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"the tag key {path} cannot be written: {error.strerror}"
        ) from error
