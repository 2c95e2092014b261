"""What publication to an object store promises: nothing torn, lost or early, whatever the store and the network do."""

import sys
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from audit_layer.log import s3_store
from audit_layer.log.files import PublishedFiles
from audit_layer.log.s3_store import S3Store
from audit_layer.log.sign_and_publish import Publisher
from audit_layer.log.store import MAX_BYTES
from audit_layer.wiring.audit_settings import ObjectStoreSettings
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.tls import LocalCA, server_context
from shared.translog.notes import encode_base64
from shared.translog.policy import verify_witnessed
from shared.translog.tiles import Tile, files_grown
from shared.translog.tlog_proof import verify_tlog_proof
from tests.audit_layer.log.object_store import (
    BUCKET,
    CREDENTIALS,
    REGION,
    Answer,
    Request,
    UnreliableStore,
    plain_client,
    s3_server,
)
from tests.audit_layer.log.world import World, make_world, numbered

PREFIX = "logs/one"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalCA:
    return LocalCA.load_or_create(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("moto")) as address:
        yield address


@pytest.fixture
def bucket(backend: str) -> Iterator[Any]:
    """The bucket as its readers see it: `.objects()` are the bytes by key."""
    client = plain_client(backend)
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    yield client
    for key in etags(client):
        client.delete_object(Bucket=BUCKET, Key=key)
    client.delete_bucket(Bucket=BUCKET)
    client.close()


@pytest.fixture
def front(backend: str, bucket: Any, authority: LocalCA) -> Iterator[UnreliableStore]:
    double = UnreliableStore(backend)
    with double.serving(server_context(authority.issue("store"))):
        yield double


@pytest.fixture
def place(front: UnreliableStore, authority: LocalCA, tmp_path: Path) -> Iterator[S3Store]:
    store = s3_at(front, authority, tmp_path)
    yield store
    store.close()


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is sent once, so that every fault reaches the publisher."""
    monkeypatch.setattr(s3_store, "ATTEMPTS", 1)


@pytest.fixture
def world(once: None, engine: Engine, tmp_path: Path, place: S3Store) -> Iterator[World]:
    made = make_world(engine, tmp_path, names=["w1.example"], threshold=1, store=place)
    yield made
    made.close()


def s3_at(front: UnreliableStore, authority: LocalCA, folder: Path) -> S3Store:
    credentials = folder / "credentials"
    credentials.write_text(CREDENTIALS)
    credentials.chmod(0o600)
    return S3Store(
        BUCKET,
        region=REGION,
        prefix=PREFIX,
        endpoint=f"https://{front.address}",
        ca=authority.ca_file,
        credentials=credentials,
    )


def etags(client: Any) -> dict[str, str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", ())}


def objects(client: Any) -> dict[str, bytes]:
    return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in etags(client)}


def code_of(error: pytest.ExceptionInfo[CounterfoilError]) -> Code:
    return error.value.code


async def test_what_is_published_is_read_proved_and_found_clean(world: World, bucket: Any):
    publisher = world.publisher()
    for first, end in ((0, 3), (3, 300), (300, 600)):
        world.append(first, end)
        witnessed = await publisher.publish()
        assert witnessed is not None
        assert witnessed.checkpoint.size == end
    for number in (0, 255, 256, 599):
        proof = world.proofs().tlog_proof(numbered(number).entry)
        assert verify_tlog_proof(proof, numbered(number).entry, world.policy).index == number
    assert world.fsck() == []


async def test_the_bucket_can_be_served_as_it_is(world: World, bucket: Any):
    world.append(0, 300)
    await world.publisher().publish()
    expected = {f"{PREFIX}/{tile.path}" for tile in files_grown(0, 300)} | {f"{PREFIX}/checkpoint"}
    assert set(etags(bucket)) == expected
    for key in expected:
        head = bucket.head_object(Bucket=BUCKET, Key=key)
        said = (head["ContentType"], head["CacheControl"])
        if key.endswith("/checkpoint"):
            assert said == ("text/plain; charset=utf-8", "no-cache, max-age=0")
        else:
            assert said == ("application/octet-stream", "public, max-age=31536000, immutable")


async def test_a_partial_tile_gives_way_to_the_full_one_and_is_served_from_it(
    world: World, bucket: Any
):
    publisher = world.publisher()
    world.append(0, 10)
    await publisher.publish()
    partial = world.files.serve("tile/0/000.p/10")
    assert f"{PREFIX}/tile/0/000.p/10" in etags(bucket)
    world.append(10, 256)
    await publisher.publish()
    assert not [key for key in etags(bucket) if "/tile/0/000.p/" in key]
    assert world.files.serve("tile/0/000.p/10") == partial
    assert world.fsck() == []


async def test_a_checkpoint_is_never_visible_before_its_tiles(
    world: World, front: UnreliableStore, bucket: Any
):
    sizes, problems = [], []

    def look(request: Request) -> None:
        if request.method != "PUT":
            return
        seen = objects(bucket)
        note = seen.get(f"{PREFIX}/checkpoint")
        if note is not None:
            size = verify_witnessed(note.decode(), world.policy).checkpoint.size
            sizes.append(size)
            for tile in files_grown(0, size):
                names = {f"{PREFIX}/{tile.path}", f"{PREFIX}/{tile.full().path}"}
                if not names & set(seen):
                    problems.append((request.path, size, tile.path))

    front.after = look
    publisher = world.publisher()
    for first, end in ((0, 5), (5, 300), (300, 310)):
        world.append(first, end)
        await publisher.publish()
    assert not problems
    assert set(sizes) == {5, 300, 310}


KINDS = ("refuse", "reset", "lost")


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(KINDS, id="in turn"),
        *(pytest.param((kind,), id=kind, marks=pytest.mark.soak) for kind in KINDS),
    ],
)
async def test_a_fault_at_any_request_loses_and_damages_nothing_and_the_next_tick_completes(
    world: World, front: UnreliableStore, bucket: Any, kinds: Sequence[str]
):
    publisher = world.publisher()
    end, failed, nth, reached = 0, 0, 0, [""]
    while reached:
        world.append(
            end, end + 260
        )  # a tile becomes full each time, and its partial one is dropped
        end += 260
        nth += 1
        before = etags(bucket)
        reached = []

        def fault(request: Request, nth: int = nth, reached: list[str] = reached) -> str | None:
            if request.number != nth:
                return None
            reached.append(request.path)
            return kinds[nth % len(kinds)]

        front.fail(fault)
        refused = await _refusal(publisher)
        if refused is not None:
            assert refused.code in {Code.UNAVAILABLE, Code.NOT_WITNESSED}
            assert refused.retry_after_s is not None
            failed += 1
        front.fault = lambda _: None
        _only_grew(before, etags(bucket))
        await publisher.publish()
        _only_grew(before, etags(bucket))
        note = world.files.checkpoint()
        assert verify_witnessed(note or "", world.policy).checkpoint.size == end
    assert (failed, nth) >= (7, 9), (
        "tiles, consistency proof, checkpoint; and the dropping, which may fail"
    )
    assert world.fsck() == []


async def _refusal(publisher: Publisher) -> CounterfoilError | None:
    try:
        await publisher.tick()
    except CounterfoilError as error:
        return error
    return None


def _only_grew(before: dict[str, str], after: dict[str, str]) -> None:
    """No tile changed; what is gone is a partial tile whose full one is there."""
    for key, etag in before.items():
        full = key.partition(".p/")[0]
        if not key.endswith("/checkpoint"):
            assert after.get(key) == etag or (key not in after and full in after), key


async def test_short_failures_are_repeated_within_one_tick(
    engine: Engine, tmp_path: Path, front: UnreliableStore, place: S3Store
):
    world = make_world(engine, tmp_path, names=["w1.example"], threshold=1, store=place)
    failed: set[tuple[str, str]] = set()

    def first_time(request: Request) -> str | None:
        asked = (request.method, request.path)
        if asked in failed:
            return None
        failed.add(asked)
        return {"GET": "refuse", "HEAD": "reset", "PUT": "lost"}[request.method]

    front.fault = first_time
    world.append(0, 3)
    assert await world.publisher().tick() is not None
    assert {method for method, _ in failed} == {"GET", "HEAD", "PUT"}
    assert world.fsck() == []
    world.close()


async def test_other_bytes_under_a_tiles_name_stop_publication_and_fsck_names_them(
    world: World, bucket: Any
):
    publisher = world.publisher()
    world.append(0, 10)
    await publisher.publish()
    planted = f"{PREFIX}/tile/0/000.p/20"
    bucket.put_object(Bucket=BUCKET, Key=planted, Body=b"\x07" * 640)
    world.append(10, 20)
    with pytest.raises(CounterfoilError) as caught:
        await publisher.publish()
    assert code_of(caught) is Code.CORRUPT
    assert objects(bucket)[planted] == b"\x07" * 640
    assert [finding.place for finding in world.fsck()] == ["tile/0/000.p/20"]
    bucket.delete_object(Bucket=BUCKET, Key=planted)
    bucket.put_object(Bucket=BUCKET, Key=f"{PREFIX}/tile/notes.txt", Body=b"?")
    await publisher.publish()
    assert [finding.place for finding in world.fsck()] == ["tile/notes.txt"]
    bucket.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/tile/entries/000.p/20")
    assert "tile/entries/000.p/20: missing" in [str(finding) for finding in world.fsck()]


async def test_a_checkpoint_that_arrives_late_does_not_replace_a_newer_one(
    world: World, front: UnreliableStore, bucket: Any
):
    publisher = world.publisher()
    world.append(0, 5)
    await publisher.publish()
    late: list[Request] = []

    def hold(request: Request) -> str | None:
        if request.method == "PUT" and request.path.endswith("/checkpoint"):
            late.append(request)
            return "reset"
        return None

    front.fault = hold
    world.append(5, 9)
    with pytest.raises(CounterfoilError):
        await publisher.publish()
    front.fault = lambda _: None
    world.append(9, 12)
    await publisher.publish()
    assert late
    statuses = [front.forward(request)[0] for request in late]
    assert statuses == [412] * len(late)
    assert verify_witnessed(world.files.checkpoint() or "", world.policy).checkpoint.size == 12


def _deaf(request: Request) -> None:
    for name in ("If-None-Match", "If-Match"):
        request.headers.pop(name, None)


def _refusing(request: Request) -> tuple[int, dict[str, str], bytes] | None:
    if {"If-None-Match", "If-Match"} & set(request.headers):
        return 501, {}, b"<Error><Code>NotImplemented</Code></Error>"
    return None


@pytest.mark.parametrize("store", ["that ignores conditions", "that refuses conditions"])
async def test_a_store_without_conditions_is_looked_at_before_each_write(
    world: World, front: UnreliableStore, bucket: Any, store: str
):
    if store == "that ignores conditions":
        front.rewrite = _deaf
    else:
        front.fault = _refusing
    publisher = world.publisher()
    world.append(0, 10)
    await publisher.publish()
    planted = f"{PREFIX}/tile/0/000.p/20"
    bucket.put_object(Bucket=BUCKET, Key=planted, Body=b"\x07" * 640)
    world.append(10, 20)
    with pytest.raises(CounterfoilError) as caught:
        await publisher.publish()
    assert code_of(caught) is Code.CORRUPT
    assert objects(bucket)[planted] == b"\x07" * 640
    bucket.delete_object(Bucket=BUCKET, Key=planted)
    await publisher.publish()
    world.append(20, 300)
    await publisher.publish()
    assert world.fsck() == []


def answering(fault: str | Answer) -> Callable[[Request], str | Answer]:
    return lambda _: fault


def test_hostile_answers_are_bounded_and_never_taken_for_data(
    once: None, front: UnreliableStore, authority: LocalCA, tmp_path: Path, bucket: Any
):
    store = s3_at(front, authority, tmp_path)
    tile = Tile(0, 0, 3)
    store.create(tile.path, b"\x01" * 96)
    hostile: list[tuple[str | Answer, Code]] = [
        ("half", Code.UNAVAILABLE),
        ((200, {}, b"\x00" * (MAX_BYTES + 1)), Code.CORRUPT),
        ((500, {}, b"not XML"), Code.UNAVAILABLE),
        ((429, {}, b"<Error><Code>SlowDown</Code></Error>"), Code.UNAVAILABLE),
        ((404, {}, b"<Error><Code>NoSuchBucket</Code></Error>"), Code.CONFIGURATION),
        ((403, {}, b"<Error><Code>AccessDenied</Code></Error>"), Code.CONFIGURATION),
    ]
    for fault, code in hostile:
        front.fault = answering(fault)
        with pytest.raises(CounterfoilError) as caught:
            store.read(tile.path)
        assert code_of(caught) is code, fault
    for listing in (b"<ListBucketResult><Contents>", b"\xff\xfe"):
        front.fault = answering((200, {}, listing))
        with pytest.raises(CounterfoilError) as caught:
            list(store.names("tile"))
        assert code_of(caught) is Code.UNAVAILABLE
    front.fault = lambda _: None
    assert store.read(tile.path) == b"\x01" * 96
    store.close()


def test_every_write_carries_its_sha256_for_the_store_to_check(
    front: UnreliableStore, place: S3Store
):
    data = b"\x01" * 32
    place.create("tile/0/000.p/1", data)
    place.replace("checkpoint", data)
    writes = [request.headers for request in front.seen if request.method == "PUT"]
    assert len(writes) == 3
    for headers in writes:
        assert headers["x-amz-checksum-sha256"] == encode_base64(sha256(data).digest())
        assert "Content-Encoding" not in headers  # plain bodies, which every store takes


def test_a_bucket_that_is_not_there_says_what_to_check(
    once: None, front: UnreliableStore, authority: LocalCA, tmp_path: Path
):
    store = s3_at(front, authority, tmp_path)
    store._bucket = "another-bucket"
    with pytest.raises(CounterfoilError, match="NoSuchBucket") as caught:
        PublishedFiles(store).checkpoint()
    assert code_of(caught) is Code.CONFIGURATION
    assert "s3:ListBucket" in (caught.value.remedy or "")
    store.close()


def test_credentials_that_others_can_read_are_refused(
    front: UnreliableStore, authority: LocalCA, tmp_path: Path
):
    s3_at(front, authority, tmp_path).close()
    credentials = tmp_path / "credentials"
    credentials.chmod(0o644)
    with pytest.raises(CounterfoilError, match="open to other users"):
        S3Store(BUCKET, region=REGION, credentials=credentials)


def test_without_boto3_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(CounterfoilError) as caught:
        S3Store(BUCKET, region=REGION)
    assert code_of(caught) is Code.CONFIGURATION
    assert "counterfoil[s3]" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "http://127.0.0.1:1"},
        {"prefix": "/x"},
        {"prefix": "x/"},
        {"bucket": "A"},
        {"secret_access_key": "x"},
    ],
)
def test_settings_take_no_plain_address_no_odd_prefix_and_no_secret(wrong: dict[str, str]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ObjectStoreSettings.model_validate({"bucket": BUCKET, **wrong})


def test_the_store_keeps_its_contract(place: S3Store, bucket: Any):
    for path in ("tile/0/000.p/1", "tile/0/000.p/2", "tile/1/000.p/1"):
        assert place.create(path, sha256(path.encode()).digest())
        assert not place.create(path, b"other")
        assert place.read(path) == sha256(path.encode()).digest()
    assert sorted(place.names("tile/0")) == ["tile/0/000.p/1", "tile/0/000.p/2"]
    place.drop("tile/0/000.p")
    assert list(place.names("tile")) == ["tile/1/000.p/1"]
    assert place.read("tile/0/000.p/1") is None
    for note in (b"one", b"two"):
        place.replace("checkpoint", note)
        assert place.read("checkpoint") == note
