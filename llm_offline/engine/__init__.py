"""From token ids to text: everything below HTTP.

`interface` is what the HTTP layer knows, `continuous` the engine behind it. What lies here plans:
which sequences take part in a step, and whose each block of memory is; it knows no tensor. Below
and around it, `text` (templates, whole characters, grammars), `compute` (the model on its device),
`sampling` (from logits to tokens), `weights` (linear layers) and `hardware` (what there is).
"""
