"""From text to chunks that an encoder reads whole."""

from ingest.chunking.splitting import split

__all__ = ["split"]
