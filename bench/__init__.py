"""Measurements, each one command, each with a peer beside it."""
