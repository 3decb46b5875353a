"""The `midstream` command line and, later, the Python client."""
