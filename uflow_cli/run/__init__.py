"""The run folder: the weights, configuration, state, lock and log of a training, and the list of runs."""
