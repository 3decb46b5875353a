"""The contract: types of the resources and of the engine's config folder, digests, versions.

Everything else imports this package; it imports pydantic and the standard library only.
"""

__version__ = "0.1.0"
