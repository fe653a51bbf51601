"""Errors of this package.

IngestError
├── UnreadableFile       a file's bytes cannot become text; carries OpenAI's `last_error` code
└── CommandError         the command line cannot go on; one line for the user, and an exit status
"""

from __future__ import annotations

from typing import Literal

FileErrorCode = Literal["server_error", "unsupported_file", "invalid_file"]


class IngestError(Exception):
    """Base of everything this package raises on purpose; its text is one sentence for a person."""


class UnreadableFile(IngestError):
    """The file cannot be read; the sentence says why and what to do."""

    def __init__(self, message: str, code: FileErrorCode = "invalid_file") -> None:
        super().__init__(message)
        self.code: FileErrorCode = code

    def __reduce__(self) -> tuple[type[UnreadableFile], tuple[str, FileErrorCode]]:
        # Raised in a worker process: the default would lose `code` on the way back.
        return type(self), (str(self), self.code)


class CommandError(IngestError):
    """The command cannot go on."""

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status
