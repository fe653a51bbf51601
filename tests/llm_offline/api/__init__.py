"""Tests of `llm_offline.api`."""
