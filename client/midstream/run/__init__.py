"""`midstream run`: one supervisor process that owns the socket, and the engine workers that answer on it.

The supervisor plays the operator's part on one machine: it watches the manifest, writes the config folder and moves all
workers from one revision to the next. It never loads a model itself.
"""
