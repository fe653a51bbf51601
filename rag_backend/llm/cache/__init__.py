"""Where answers are kept: bytes under a digest, in memory or in Redis."""
