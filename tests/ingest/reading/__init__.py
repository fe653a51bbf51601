"""Tests of ingest.reading."""
