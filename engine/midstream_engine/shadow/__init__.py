"""Challengers: models that get the rows of a champion and answer nobody."""
