"""The engine: serves a pipeline and swaps its models while it serves."""
