"""What a pipeline does with a batch: steps, the models in them, and how they are run."""
