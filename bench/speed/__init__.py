"""Speed, measured side by side in one process: the network's step, a study, optimizers, data."""
