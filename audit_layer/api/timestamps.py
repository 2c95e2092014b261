"""Timestamps over the log's checkpoints (RFC 3161), for everyone, as the log itself is."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from audit_layer.api.parts import Parts
from audit_layer.api.schemas import View
from audit_layer.log import timestamp_table as table
from audit_layer.log.store import IMMUTABLE
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint, parse_decimal
from shared.translog.timestamp import REPLY_TYPE

MAX_PAGE: Final = 100


class TimestampView(View):
    """One checkpoint that an authority has stamped."""

    size: int
    time: int
    """When the authority says that it saw the checkpoint."""
    text: str
    """The three lines whose SHA-256 is stamped."""


class TimestampPage(View):
    """Stamped checkpoints, the largest first."""

    items: list[TimestampView]
    next: int | None
    """Value of `before` for the next page; null when this is the last."""


def timestamp_router(parts: Parts) -> APIRouter:
    """Return the routes of the timestamps."""
    router = APIRouter(tags=["public"])

    @router.get("/timestamps")
    def timestamps(
        before: Annotated[int | None, Query(ge=0, lt=1 << 63)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    ) -> TimestampPage:
        """Which checkpoints are stamped, and when."""
        with transaction(parts.engine) as connection:
            stamps = table.page(connection, before, limit)
        items = [
            TimestampView(
                size=stamp.size,
                time=stamp.time,
                text=Checkpoint(parts.origin, stamp.size, stamp.root).body,
            )
            for stamp in stamps
            if stamp.root is not None
        ]
        return TimestampPage(items=items, next=stamps[-1].size if len(stamps) == limit else None)

    @router.get("/timestamp/{size}", response_class=Response)
    def timestamp(size: str) -> Response:
        """The RFC 3161 reply over the checkpoint of a size, or of the `latest` that is stamped."""
        with transaction(parts.engine) as connection:
            if size == "latest":
                found = next(iter(table.page(connection, None, 1)), None)
            else:
                found = table.at_size(connection, _size(size))
        if found is None:
            raise CounterfoilError(
                Code.NOT_FOUND,
                "that checkpoint has no timestamp",
                remedy="GET /timestamps lists those that have one.",
            )
        caching = "no-cache, max-age=0" if size == "latest" else IMMUTABLE.cache_control
        return Response(found.reply, headers={"content-type": REPLY_TYPE, "cache-control": caching})

    return router


def _size(text: str) -> int:
    try:
        size = parse_decimal(text)
    except CounterfoilError as e:
        raise CounterfoilError(Code.NOT_FOUND, "that is not a checkpoint's size") from e
    if size >= 1 << 63:
        raise CounterfoilError(Code.NOT_FOUND, "that is not a checkpoint's size")
    return size
