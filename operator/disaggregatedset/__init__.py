"""The DisaggregatedSet operator: weights, KV cache and compute of a language model as tiers that scale on their own."""

__version__ = "0.1.0"
