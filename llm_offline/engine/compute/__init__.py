"""The model on its device: a step of many sequences in, logits out."""
