"""Inference requests of all sorts against pipelines of all sorts: how they are made, changed, run and judged."""
