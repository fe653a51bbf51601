"""HTTP in, HTTP out: OpenAI's dialect around an engine."""
