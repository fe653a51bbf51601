"""The socket is bound first, and a failure is one sentence."""

from __future__ import annotations

import os

import pytest

from llm_offline.errors import StartError
from llm_offline.listening import holder, listen
from tests.llm_offline.processes import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_it_listens(host: str) -> None:
    port = free_port()
    with listen(host, port) as listener:
        assert listener.getsockname()[1] == port
        assert f"(process {os.getpid()})" in holder(port)
        with pytest.raises(StartError, match=rf"port {port} is in use by .*choose another"):
            listen(host, port)


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("no such host", "--host no such host: no such address"),
        ("a" * 80, "no such address"),
        ("192.0.2.1", "not an address of this machine"),
    ],
)
def test_an_address_that_is_not_ours(host: str, sentence: str) -> None:
    with pytest.raises(StartError, match=sentence):
        listen(host, free_port())
