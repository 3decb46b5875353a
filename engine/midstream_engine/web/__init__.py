"""The engine over HTTP: connections, requests for inference, and what operators ask."""
