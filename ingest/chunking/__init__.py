"""From text to chunks that an encoder reads whole."""

from ingest.chunking.splitting import split
from ingest.chunking.windows import StaticSize, windows

__all__ = ["StaticSize", "split", "windows"]
