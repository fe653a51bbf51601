"""Tests of llm_offline.tasks."""
