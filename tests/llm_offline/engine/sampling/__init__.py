"""Tests of `llm_offline.engine.sampling`."""
