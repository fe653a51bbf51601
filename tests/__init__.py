"""Tests; each folder mirrors the package of its name."""
