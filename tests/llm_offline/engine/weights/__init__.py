"""Tests of `llm_offline.engine.weights`."""
