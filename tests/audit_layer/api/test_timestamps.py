"""The server with a timestamp authority and an object store: what anyone can read, and that `log fsck` is content."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from audit_layer.log.files import CHECKPOINT
from audit_layer.wiring.audit_server import open_core, published, timestamp_anchors
from audit_layer.wiring.audit_settings import load_as_written, load_settings, save
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.tls import LocalCA, client_context, server_context
from tests.audit_layer.log.object_store import (
    BUCKET,
    CREDENTIALS,
    REGION,
    UnreliableStore,
    plain_client,
    s3_server,
)
from tests.audit_layer.log.test_timestamps import AuthorityServer
from tests.audit_layer.served import command, fill, initialise, serving, witness
from tests.postgres import Database
from tests.shared.translog.authority import make_authority


def _extend(config: Path, more: str) -> None:
    config.write_text(f"{config.read_text()}\n{more}")
    settings = load_settings(config)
    save(load_as_written(config), config)
    assert load_settings(config) == settings, "what is written back is what was read"


@contextlib.asynccontextmanager
async def configured(
    database: Database, folder: Path, more: str
) -> AsyncIterator[tuple[Path, LocalCA]]:
    """A configuration with `more` at its end, a witness, and some statements."""
    authority = LocalCA.load_or_create(folder / "ca")
    tls = authority.issue("server")
    known = initialise(folder / "audit", database, tls)
    config = Path(known["config"])
    async with witness(folder, tls, known["log_vkeys"]) as (address, vkeys):
        given = [argument for vkey in vkeys for argument in ("--vkey", vkey)]
        command("audit", "trust", "--config", str(config), "--name", "witness",
                "--url", f"https://{address}", *given)  # fmt: skip
        _extend(config, more)
        with open_core(load_settings(config), application_name="test") as core:
            fill(core)
        yield config, authority


async def test_a_stamped_checkpoint_can_be_read_and_verified_by_anyone(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("audit_layer.log.timestamps.PAUSE_S", 0.05)
    tsa = AuthorityServer(make_authority(tmp_path / "tsa"))
    with tsa.serving():
        more = f'[timestamps]\nurl = "{tsa.url}"\nca = "{tsa.authority.folder}/anchor.pem"\n'
        async with (
            configured(database, tmp_path, more) as (config, authority),
            serving(config, monkeypatch) as addresses,
            httpx.AsyncClient(
                base_url=f"https://{addresses['http']}",
                verify=client_context(authority.ca_file),
                trust_env=False,
            ) as anyone,
            asyncio.timeout(60),
        ):
            while not (listed := (await anyone.get("/timestamps")).json())["items"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            (item,) = listed["items"]
            assert listed["next"] is None
            answer = await anyone.get(f"/timestamp/{item['size']}")
            assert answer.headers["content-type"] == "application/timestamp-reply"
            assert "immutable" in answer.headers["cache-control"]
            assert tsa.authority.verify(answer.content, item["text"])
            latest = await anyone.get("/timestamp/latest")
            assert latest.content == answer.content
            assert "no-cache" in latest.headers["cache-control"]
            for absent in ("0", "9" * 19, "9" * 40, "-1", "x", "007"):
                assert (await anyone.get(f"/timestamp/{absent}")).status_code == 404, absent
            assert (await anyone.get("/timestamps", params={"limit": 101})).status_code == 400
            page = (await anyone.get("/timestamps", params={"before": item["size"]})).json()
            assert page == {"items": [], "next": None}
        assert command("log", "fsck", "--config", str(config), "--json") == {"findings": []}


async def test_the_server_publishes_to_the_object_store_that_is_configured(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    credentials = tmp_path / "credentials"
    credentials.write_text(CREDENTIALS)
    credentials.chmod(0o600)
    tls = server_context(LocalCA.load_or_create(tmp_path / "ca").issue("store"))
    with (
        s3_server(tmp_path) as backend,
        contextlib.closing(plain_client(backend)) as bucket,
        UnreliableStore(backend).serving(tls) as front,
    ):
        bucket.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        more = (
            f'[object_store]\nbucket = "{BUCKET}"\nprefix = "log"\nregion = "{REGION}"\n'
            f'endpoint = "https://{front.address}"\nca = "{tmp_path}/ca/ca.pem"\n'
            f'credentials_file = "{credentials}"\n'
        )
        async with configured(database, tmp_path, more) as (config, authority):
            async with (
                serving(config, monkeypatch) as addresses,
                httpx.AsyncClient(
                    base_url=f"https://{addresses['http']}",
                    verify=client_context(authority.ca_file),
                    trust_env=False,
                ) as anyone,
                asyncio.timeout(60),
            ):
                while (answer := await anyone.get("/checkpoint")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            stored = bucket.get_object(Bucket=BUCKET, Key=f"log/{CHECKPOINT}")["Body"].read()
            settings = load_settings(config)
            assert stored.decode() == published(settings).checkpoint()
            assert answer.text.splitlines()[0] == settings.origin
            assert not settings.tiles_folder.exists()
            assert command("log", "fsck", "--config", str(config), "--json") == {"findings": []}


def test_anchors_that_cannot_be_read_say_which_file_to_look_at(database: Database, tmp_path: Path):
    tls = LocalCA.load_or_create(tmp_path / "ca").issue("server")
    config = Path(initialise(tmp_path / "audit", database, tls)["config"])
    assert timestamp_anchors(load_settings(config)) == ()
    config.write_text(f'{config.read_text()}\n[timestamps]\nca = "anchor.pem"\n')
    anchor = config.parent / "anchor.pem"
    for content in (None, "no certificate"):
        if content is not None:
            anchor.write_text(content)
        with pytest.raises(CounterfoilError, match=r"anchor\.pem") as caught:
            timestamp_anchors(load_settings(config))
        assert caught.value.code is Code.CONFIGURATION
