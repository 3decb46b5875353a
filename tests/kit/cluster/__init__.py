"""What the tests of a real cluster use: kubectl, namespaces, models in a registry, load from a pod, faults."""
