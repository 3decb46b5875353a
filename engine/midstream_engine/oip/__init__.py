"""Open Inference Protocol v2 over REST, with the binary tensor data extension: paths, requests, answers, metadata.

Pure: bytes and values in, bytes and values out. Knows no HTTP server and runs no model.
`docs/open-inference-protocol.md` has the whole of it.
"""
