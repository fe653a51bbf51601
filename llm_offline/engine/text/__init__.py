"""Between a client's text and token ids: templates, whole characters, stops, grammars and calls."""
