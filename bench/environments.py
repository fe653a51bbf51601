"""Environments of the peers: each folder with a requirements.txt has one of its own."""

from __future__ import annotations

import subprocess
import sys
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


def packages_of(folder: Path) -> Path:
    """Where a folder's requirements lie, and nothing that they need: it is here already.

    For a peer that runs in this environment and wants a little more; made when absent or old.

    Raises:
        subprocess.CalledProcessError: pip cannot have them.
    """
    packages, requirements = folder / ".packages", folder / "requirements.txt"
    done, wanted = packages / ".installed", requirements.read_text("utf-8")
    if not done.is_file() or done.read_text("utf-8") != wanted:
        print(f"making {packages.relative_to(PEERS.parent.parent)} …", flush=True)
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
        command += ["--target", str(packages), "-r", str(requirements)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        done.write_text(wanted, "utf-8")
    return packages
