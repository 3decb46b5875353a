"""What the config folder wishes, and how it becomes revisions that serve."""
