"""Tests of `llm_offline.engine.hardware`."""
