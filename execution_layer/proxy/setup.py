"""What `counterfoil proxy init` writes: a complete configuration beside a client's policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from execution_layer.client.policy import ClientPolicy
from execution_layer.proxy.settings import ProxySettings
from shared.runtime.config import checked, to_toml
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import private_folder, write_private
from shared.runtime.net import split_address

CONFIG: Final = "proxy.toml"
DEFAULT_MODEL: Final = "default"


def write_proxy(
    folder: Path,
    client: Path,
    address: str,
    models: Mapping[str, str],
    tls: Mapping[str, Path] | None,
) -> dict[str, Any]:
    """Write the configuration; return what applications must know. Without `models`, the policy's own is named `default`."""
    split_address(address)
    policy = ClientPolicy.load(client)
    named = dict(models) or ({DEFAULT_MODEL: policy.model_root} if policy.model_root else {})
    if not named:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{client} names no model, so the proxy would have none",
            remedy="Name one: --model NAME=ROOT.",
        )
    folder = private_folder(folder.absolute())
    values = {
        "client": client.absolute(),
        "address": address,
        "keys_file": folder / "keys.sqlite",
        "models": named,
        **({} if tls is None else {"tls": tls}),
    }
    settings = checked(ProxySettings, values, "the options")
    write_private(folder / CONFIG, to_toml(settings).encode())
    scheme = "http" if tls is None else "https"
    return {
        "config": folder / CONFIG,
        "base_url": f"{scheme}://{address}/v1",
        "models": sorted(settings.models),
    }
