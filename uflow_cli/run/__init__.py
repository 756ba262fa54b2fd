"""The run folder: what a training leaves, and what is known of it."""
