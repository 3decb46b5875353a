"""Where models come from: sources, digests, and the cache that keeps verified, immutable copies."""
