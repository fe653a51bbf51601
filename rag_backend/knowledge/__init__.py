"""Documents at rest: catalog, vectors, postings; the write path and the read path."""
