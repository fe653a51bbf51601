"""Tests of `llm_offline`."""
