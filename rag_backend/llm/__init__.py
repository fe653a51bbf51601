"""Language-model providers, and the policies that wrap them."""
