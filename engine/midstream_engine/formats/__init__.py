"""Formats: bodies in, bodies out. A request becomes a `Batch`, whatever its format; a `Result` becomes any format.

Nothing here runs a model or knows HTTP beyond the values of its headers.
"""
