"""The exchange of the token for a cookie."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from parallel_nst.web.guards import COOKIE, same_text, session_of
from parallel_nst.web.routes.service import ERRORS, PicturesHere
from parallel_nst.web.views import SessionRequest

router = APIRouter(prefix="/v1", responses=ERRORS)


@router.post("/session", status_code=204)
def session(asked: SessionRequest, request: Request, service: PicturesHere) -> Response:
    """Exchange the server's token for a cookie, as the page does."""
    token = service.settings.token
    if token and not same_text(asked.token, token):
        raise HTTPException(401, "this is not the server's token")
    answer = Response(status_code=204)
    secure = request.headers.get("origin", "").startswith("https:")
    answer.set_cookie(COOKIE, session_of(token), httponly=True, samesite="strict", secure=secure)
    return answer
