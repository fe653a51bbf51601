"""A file's bytes, whole or in the parts that were asked for, with refusals in OpenAI's form."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, JSONResponse
from starlette.types import Message, Receive, Scope, Send

from rag_backend.errors import BadRequest

_REFUSED = {
    400: "The `Range` header is not one of bytes, such as `bytes=0-99`.",
    416: "The file has no such bytes: its size is in the `Content-Range` header.",
}


class RangedFile(FileResponse):
    """A file on disk: 200, or 206 for one range or several."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; what Starlette refuses as plain text is refused in OpenAI's envelope."""
        refused = False

        async def translated(message: Message) -> None:
            nonlocal refused
            if message["type"] != "http.response.start" or message["status"] not in _REFUSED:
                if not refused:  # the refusal's own body is not wanted
                    await send(message)
                return
            refused = True
            status = message["status"]
            error = BadRequest(_REFUSED[status], param="range", code="invalid_range")
            size = MutableHeaders(scope=message).get("content-range")
            headers = {} if size is None else {"content-range": size}
            await JSONResponse(error.envelope(), status, headers)(scope, receive, send)

        await super().__call__(scope, receive, translated)
