"""Tests of `llm_offline.engine.compute`."""
