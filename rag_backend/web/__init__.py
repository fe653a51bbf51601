"""The page served at `/`."""
