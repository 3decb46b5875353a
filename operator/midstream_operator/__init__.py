"""Reconciles `Pipeline` resources: engines, load balancer, and the swap of what they serve without new pods."""
