"""What a protocol may add to the plain way of training, each off by default.

options.py       what a protocol says of each
selection.py     `--technique NAME[.KEY=VALUE]` to a protocol
contrastive.py   losses of pairs of embeddings
objective.py     the loss of a step, and what it keeps from step to step
"""
