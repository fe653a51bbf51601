"""Print the settings tables of the README: `python scripts/settings_tables.py`."""

from __future__ import annotations

from typing import Any

from ingest.settings import documented
from llm_offline.settings import Settings as OfflineSettings
from llm_offline.settings import variable
from rag_backend.settings import Settings


def shown(value: Any) -> str:
    """A default as a person would write it."""
    if value in (None, ()):
        return ""
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def table(rows: list[tuple[str, str, str]]) -> str:
    """Markdown."""
    head = ["| Variable | Default | Meaning |", "|---|---|---|"]
    return "\n".join(
        [*head, *(f"| `{name}` | {default} | {text} |" for name, default, text in rows)]
    )


def rows_of(fields: dict[str, Any], rename: Any) -> list[tuple[str, str, str]]:
    """(variable, default, description) of each field."""
    return [(rename(name), shown(f.default), f.description) for name, f in fields.items()]


if __name__ == "__main__":
    print(table(rows_of(Settings.model_fields, str.upper)), end="\n\n")
    print(table(rows_of(OfflineSettings.model_fields, variable)), end="\n\n")
    print(table([(name, "", text) for name, text in documented()]))
