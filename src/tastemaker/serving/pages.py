"""The page at `/`: its files, and the few questions it asks beside those of the API."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import FastAPI, Query, Response
from fastapi.responses import HTMLResponse, JSONResponse

from tastemaker.data import Dataset
from tastemaker.experiment.report import rendered_report
from tastemaker.serving.loaded import LoadedRun
from tastemaker.serving.service import Service, UnknownItemError, described, item_code

__all__ = ["add_pages"]

_FOUND = 12  # titles offered for a search
_LATEST = 30  # events of a user's history shown
_FILES = {
    "page.css": ("tastemaker.serving.page", "text/css"),
    "page.js": ("tastemaker.serving.page", "text/javascript"),
    "report.css": ("tastemaker.experiment", "text/css"),
}
# Everything comes from this server; report pages bring their style with them.
_HEADERS = {
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def add_pages(app: FastAPI, service: Service) -> None:
    """Add the page; none of it is part of the documented API."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(_read("index.html", "tastemaker.serving.page"), headers=_HEADERS)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)  # there is none, and browsers ask

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in _FILES:
            raise UnknownItemError(f"there is no file {name!r}")
        package, kind = _FILES[name]
        return Response(_read(name, package), media_type=kind, headers=_HEADERS)

    @app.get("/page/search", include_in_schema=False)
    async def search(text: str = Query(max_length=200), model: str | None = None) -> Response:
        loaded = service.engine.loaded(service.choose(model, None))
        found = await asyncio.to_thread(titles_with, loaded, text)
        return JSONResponse({"items": found})

    @app.get("/page/history", include_in_schema=False)
    async def history(user: str = Query(min_length=1, max_length=512)) -> Response:
        loaded = service.engine.loaded(service.engine.default)
        live = await asyncio.to_thread(service.live.of, user)
        asked = loaded.ask(user, None, live)
        shown = described(loaded, asked.items[-_LATEST:])
        more = len(asked.items) - len(shown)
        note = f"{asked.basis}; {more:,} older events are not shown" if more else asked.basis
        return JSONResponse({"items": shown, "note": note[:1].upper() + note[1:] + "."})

    @app.get("/page/somebody", include_in_schema=False)
    async def somebody() -> Response:
        dataset = service.engine.loaded(service.engine.default).dataset
        code = int(np.random.default_rng().integers(dataset.n_users))
        return JSONResponse({"user": str(dataset.user_ids.raw(code))})

    @app.get("/page/runs/{name}", include_in_schema=False)
    async def run(name: str) -> Response:
        loaded = service.engine.loaded(name)
        html = await asyncio.to_thread(rendered_report, loaded.run)
        return HTMLResponse(html, headers=_HEADERS)

    @app.get("/items/{item:path}/picture", include_in_schema=False)
    async def picture(item: str) -> Response:
        loaded = service.engine.loaded(service.engine.default)
        code = item_code(loaded, item)
        found = None if loaded.pictures is None else loaded.pictures[code].as_py()
        if found is None:
            raise UnknownItemError(f"item {item!r} has no picture")
        content = bytes(found)
        return Response(content, media_type=_kind_of(content), headers=_HEADERS)


def titles_with(loaded: LoadedRun, text: str) -> list[dict[str, Any]]:
    """Items whose title holds a text, those that begin with it first, often chosen ones first."""
    titles = _titles(loaded.dataset)
    holds = pc.match_substring(titles, text, ignore_case=True)
    codes = np.flatnonzero(holds.to_numpy(zero_copy_only=False))
    if not len(codes):
        return []
    begins = pc.starts_with(titles.take(pa.array(codes)), text, ignore_case=True)
    later = ~begins.to_numpy(zero_copy_only=False)
    order = np.lexsort((-loaded.item_counts[codes], later))
    return described(loaded, codes[order][:_FOUND])


def _titles(dataset: Dataset) -> pa.Array:
    """The titles of all items, raw ids where there are none."""
    name = dataset.schema.title
    ids = dataset.item_ids.ids.cast(pa.large_string())
    if dataset.items is None or name is None:
        return ids
    titles = dataset.items.column(name).combine_chunks().cast(pa.large_string())
    return pc.coalesce(titles, ids)


def _kind_of(content: bytes) -> str:
    """The media type of a picture by its first bytes."""
    marks = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"GIF8": "image/gif"}
    marks[b"RIFF"] = "image/webp"
    for mark, kind in marks.items():
        if content.startswith(mark):
            return kind
    return "application/octet-stream"


def _read(name: str, package: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
