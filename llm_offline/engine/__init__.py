"""From token ids to text: everything below HTTP.

`interface` is what the HTTP layer knows; `one_at_a_time` is the engine behind it.
"""
