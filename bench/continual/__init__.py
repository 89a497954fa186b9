"""Learning tasks one after the other: what is asked of a network that shall not forget the earlier ones.

figures.py     average accuracy, forgetting and backward transfer of an accuracy matrix
replay.py      which earlier samples a batch is joined by
objective.py   the loss
kind.py        what a run of such a workload measures, and when
"""
