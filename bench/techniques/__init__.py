"""What a protocol may add to the plain way of training, each off by default.

options.py       what a protocol says of each
selection.py     `--technique NAME[.KEY=VALUE]` to a protocol
contrastive.py   losses of a pair of modalities
pairs.py         the losses of all pairs, as a protocol's techniques have them
queue.py         embeddings of earlier steps
teacher.py       a network of stored weights to learn from
targets.py       what belongs together in a batch
objective.py     the loss of a step, and what it keeps from step to step
accumulation.py  a batch in parts; checkpointing.py  activations computed again; stages.py  what stands still when
fit.py           whether techniques suit optimizers, network and data, before anything runs
"""
