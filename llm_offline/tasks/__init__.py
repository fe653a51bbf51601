"""What a model is asked to do with a text: summarise it, choose from it, extract values.

Knows the engine by its interface only, and no HTTP.
"""
