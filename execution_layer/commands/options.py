"""Options that several of the client's commands have."""

from pathlib import Path
from typing import Final

import click

folder_path: Final = click.Path(file_okay=False, path_type=Path)
file_path: Final = click.Path(dir_okay=False, path_type=Path)

config_option: Final = click.option(
    "--config",
    type=file_path,
    required=True,
    envvar="COUNTERFOIL_CLIENT_CONFIG",
    show_envvar=True,
    help="The client's policy (client.toml).",
)
"""Decorator: gives a command the option `--config` as its parameter `config`."""
