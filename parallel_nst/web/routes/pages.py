"""The page and its files."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

PAGE = Path(__file__).parents[1] / "page"
FILES = {path.name: path for path in PAGE.iterdir() if path.is_file()}
FRESH = {"cache-control": "no-cache"}

router = APIRouter(include_in_schema=False)


@router.get("/")
def page() -> FileResponse:
    return FileResponse(FILES["index.html"], headers=FRESH)


@router.get("/page/{name}")
def page_file(name: str) -> FileResponse:
    if name not in FILES:
        raise HTTPException(404, "there is no such file")
    return FileResponse(FILES[name], headers=FRESH)
