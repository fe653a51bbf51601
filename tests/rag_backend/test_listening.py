"""The listening socket."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from rag_backend.errors import StartError
from rag_backend.listening import bind, is_own


def test_clients_may_come_at_once() -> None:
    with bind("127.0.0.1", 0) as listener:
        socket.create_connection(listener.getsockname(), timeout=60).close()


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
    with pytest.raises(
        StartError, match=r"^HOST=.* is not an address of this machine: set HOST"
    ) as refused:
        bind(host, 0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "host", "own"),
    [
        ("http://localhost:4000/v1", "127.0.0.1", True),
        ("http://127.0.0.1:4000/v1", "localhost", True),
        ("http://localhost:4000", "0.0.0.0", True),
        ("http://127.0.0.9:4000", "0.0.0.0", True),
        ("http://[::1]:4000", "::", True),
        ("http://localhost:4001/v1", "127.0.0.1", False),
        ("http://192.0.2.1:4000/v1", "0.0.0.0", False),
        ("http://127.0.0.1:4000", "192.0.2.1", False),
        ("http://nobody.invalid:4000", "127.0.0.1", False),
        ("http://localhost", "127.0.0.1", False),
    ],
)
def test_whether_a_url_is_our_own(url: str, host: str, own: bool) -> None:
    assert is_own(url, host, 4000) is own


def test_a_port_that_goes_without_saying() -> None:
    assert is_own("http://localhost/v1", "127.0.0.1", 80)
    assert is_own("https://localhost/v1", "127.0.0.1", 443)


def test_this_machines_other_addresses_are_its_own() -> None:
    addresses = [
        found.address
        for interface in psutil.net_if_addrs().values()
        for found in interface
        if found.family == socket.AF_INET
    ]
    assert all(is_own(f"http://{address}:4000", "0.0.0.0", 4000) for address in addresses)
