"""The listening socket."""

from __future__ import annotations

import os
import socket

import pytest

from rag_backend.errors import StartError
from rag_backend.listening import bind


def test_clients_may_come_at_once() -> None:
    with bind("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname(), timeout=5).close()


def test_a_port_in_use_names_its_holder() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StartError) as refused:
            bind("127.0.0.1", port)
    message = str(refused.value)
    assert message.startswith(f"Port {port} is in use by process {os.getpid()} (")
    assert "PORT" in message
    bind("127.0.0.1", port).close()  # free again


def test_two_that_start_at_once() -> None:
    """Neither is served yet; the second must be told all the same."""
    with bind("0.0.0.0", 0) as listener, pytest.raises(StartError, match="in use"):
        bind("0.0.0.0", listener.getsockname()[1])


@pytest.mark.parametrize("host", ["999.1.1.1", "no such host", "a" * 300, "192.0.2.1"])
def test_a_host_that_is_not_ours(host: str) -> None:
    with pytest.raises(StartError, match=r"^HOST=") as refused:
        bind(host, 0)
    assert "\n" not in str(refused.value)
