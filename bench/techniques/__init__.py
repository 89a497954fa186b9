"""What a protocol may add to the plain way of training, each off by default.

options.py       what a protocol says of each
selection.py     `--technique NAME[.KEY=VALUE]` to a protocol
contrastive.py   losses of pairs of embeddings
objective.py     the loss of a step, and what it keeps from step to step
accumulation.py  a batch in parts; checkpointing.py  activations computed again; stages.py  what stands still when
fit.py           whether techniques suit optimizers, network and data, before anything runs
"""
