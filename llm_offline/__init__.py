"""The model server: one Hugging Face causal language model behind HTTP."""
