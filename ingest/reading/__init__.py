"""From bytes to text with places, one module a family of formats."""
