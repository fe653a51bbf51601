"""What a million tokens cost, and where that is known from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rag_backend.errors import StartError
from rag_backend.llm import prices
from rag_backend.llm.prices import FREE, Price, given_price, openai_price
from rag_backend.llm.rows import ProviderRow, price_of, read_rows, rows_from
from rag_backend.settings import load_settings

CLOUD = ProviderRow("groq", base_urls=("https://192.0.2.3/v1",), cloud=True)


def test_an_answers_price() -> None:
    price = Price(2.0, 8.0, 0.5)
    assert price.of(1_000_000, 1_000_000) == 10.0
    assert price.of(1_000_000, 0, cached=1_000_000) == 0.5
    assert price.of(1000, 100, cached=400) == pytest.approx(0.0022)
    assert FREE.of(10**9, 10**9) == 0


def test_the_table() -> None:
    for fresh, cached, out in prices._OPENAI.values():
        assert 0 < cached <= fresh < out
    known = openai_price("gpt-4o-mini")
    assert known == Price(0.15, 0.60, 0.075, prices.SOURCE)


def test_what_is_not_in_the_table_has_no_price() -> None:
    assert openai_price("gpt-4o-mini-2031-01-01") is None
    assert openai_price("gpt-4o-min") is None
    assert openai_price(None) is None
    assert openai_price() is None
    # A snapshot of its own price is not its family's; one that nobody knows is as what was asked.
    assert openai_price("gpt-4o-2024-05-13", "gpt-4o") != openai_price("gpt-4o")
    assert openai_price("unknown", "gpt-4o") == openai_price("gpt-4o")


def test_whose_price_is_known() -> None:
    openai = ProviderRow("openai", base_urls=("https://proxy.example/v1",), cloud=True)
    assert price_of(openai, "gpt-4o") == openai_price("gpt-4o")
    assert price_of(replace(CLOUD, base_urls=("https://eu.api.openai.com/v1",)), "gpt-4o")
    assert price_of(CLOUD, "gpt-4o") is None  # another company's model of that name
    assert price_of(ProviderRow("local", base_urls=("http://a/v1",)), "gpt-4o") is FREE
    assert price_of(replace(CLOUD, price=Price(1, 2, 1)), "any") == Price(1, 2, 1)


def test_given() -> None:
    assert given_price(None, None, None) is None
    assert given_price(1.0, 2.0, None) == Price(1.0, 2.0, 1.0)
    assert given_price(1.0, 2.0, 0.1) == Price(1.0, 2.0, 0.1)
    for half in ((1.0, None, None), (None, 1.0, None), (None, None, 0.1)):
        with pytest.raises(ValueError, match="give both"):
            given_price(*half)


def test_settings_overrule_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_PRICE_IN", "3")
    monkeypatch.setenv("OPENAI_PRICE_OUT", "9")
    openai = rows_from(load_settings(openai_api_key="sk-x"))[0]
    assert price_of(openai, "gpt-4o-mini") == Price(3, 9, 3)
    monkeypatch.delenv("OPENAI_PRICE_OUT")
    with pytest.raises(StartError, match=r"OPENAI_PRICE_IN, OPENAI_PRICE_OUT: .* give both"):
        rows_from(load_settings(openai_api_key="sk-x"))


def test_rows_overrule_too(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    head = '[providers.groq]\nbase_url = "https://192.0.2.3/v1"\ncloud = true\n'
    file.write_text(head + "price_in = 0.59\nprice_out = 0.79\nprice_cached_in = 0\n")
    assert read_rows(file)[0].price == Price(0.59, 0.79, 0)
    file.write_text(head)
    assert price_of(read_rows(file)[0], "m") is None
    file.write_text(head + "price_in = 1\n")
    with pytest.raises(StartError, match=r"provider 'groq': .* give both"):
        read_rows(file)
    file.write_text(head + "price_in = -1\nprice_out = 1\n")
    with pytest.raises(StartError, match="price_in should be greater than or equal to 0"):
        read_rows(file)
