"""Runs Envoy as a pipeline's load balancer: starts it, says when it is ready, and stops it without losing a request."""
