"""Documents in: reading (bytes to text with places), chunking, and the command line."""
