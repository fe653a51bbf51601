"""Tests of the backend, mirroring its modules."""
