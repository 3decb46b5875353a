"""Expressions of validations with their types checked, made to run on one row or on many."""
