"""Environments of the peers: each folder with a requirements.txt has one of its own."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

PEERS = Path(__file__).resolve().parent / "peers"


def python_of(folder: Path = PEERS) -> Path:
    """The interpreter of a folder's `.venv`, which is made when it is absent or old (minutes)."""
    python = folder / ".venv" / "bin" / "python"
    done = folder / ".venv" / ".installed"
    requirements = folder / "requirements.txt"
    wanted = requirements.read_text("utf-8")
    if not done.is_file() or done.read_text("utf-8") != wanted:
        print(f"making {folder.relative_to(PEERS.parent.parent)}/.venv …", flush=True)
        venv.create(folder / ".venv", with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "-r", str(requirements)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        done.write_text(wanted, "utf-8")
    return python
