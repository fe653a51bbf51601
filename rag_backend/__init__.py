"""A RAG backend with an OpenAI-compatible API over a team's own documents."""
