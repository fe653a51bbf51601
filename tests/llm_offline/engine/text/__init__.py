"""Tests of `llm_offline.engine.text`."""
