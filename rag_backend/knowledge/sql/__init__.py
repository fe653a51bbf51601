"""The catalog's rooms: SQL, and nothing else."""
