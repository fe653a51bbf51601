"""How much may be sent: bodies while they come, messages once they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from rag_backend.api.silence import SILENCE, received
from rag_backend.errors import BadRequest, RAGError, TooLarge, TooSlow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """Largest bodies in MiB, and largest files, where files are uploaded."""

    body_mb: int = 32
    file_mb: int = 512

    def refusal(self, path: str, headers: Headers) -> TooLarge | None:
        """Why a body of the announced length is refused before a byte of it was read."""
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most(path):
            return TooLarge(self._sentence(path, int(length)))
        return None

    def bounded(self, path: str, receive: Receive) -> Receive:
        """Count what comes, with or without a length; past the limit nothing more is taken."""
        most, size, whole = self._most(path), 0, False

        async def counted() -> Message:
            nonlocal size, whole
            if whole:  # what comes now is the client's leaving
                return await receive()
            try:
                message = await received(receive)
            except TimeoutError as error:
                raise Interrupted(TooSlow(_SILENT)) from error
            whole = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > most:
                raise Interrupted(TooLarge(self._sentence(path, size)))
            return message

        return counted

    def _most(self, path: str) -> int:
        # One more for what a multipart body has around the file; the file itself is counted later.
        return (self.file_mb + 1 if _takes_files(path) else self.body_mb) * _MIB

    def _sentence(self, path: str, size: int) -> str:
        """`size` in bytes: as it was announced, or what had come when it was too much."""
        what, name, most = "body", "MAX_BODY_MB", self.body_mb
        if _takes_files(path):
            what, name, most = "file", "MAX_FILE_MB", self.file_mb
        return (
            f"The {what} has at least {size / _MIB:.1f} MiB, and {name}={most} is the limit: split "
            "it, or raise the limit."
        )


_SILENT = f"Nothing more of the body has come for {SILENCE:.0f} s: send the request again."


class Interrupted(HTTPException):
    """The one kind of exception that FastAPI lets through while it reads a body.

    Attributes:
        error: What it stands for.
    """

    def __init__(self, error: RAGError) -> None:
        super().__init__(error.status, str(error))
        self.error = error


def _takes_files(path: str) -> bool:
    return path.rstrip("/") == "/v1/files"


def check_messages(messages: Sequence[dict[str, Any]], most: int, longest: int) -> None:
    """Raise BadRequest for too many messages, or one with too many characters."""
    if len(messages) > most:
        raise BadRequest(
            f"The request has {len(messages):,} messages, and MAX_MESSAGES={most} is the limit: "
            "leave out the oldest ones.",
            param="messages",
            code="too_many_messages",
        )
    for at, message in enumerate(messages):
        size = len(message["content"])
        if size > longest:
            raise BadRequest(
                f"Message {at} has {size:,} characters, and MAX_MESSAGE_CHARS={longest} is the "
                "limit: shorten it, or put long texts into the documents.",
                param=f"messages.{at}.content",
                code="message_too_long",
            )
