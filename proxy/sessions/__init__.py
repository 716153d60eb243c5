"""What is remembered of conversations, and their KV caches in three tiers."""
