"""How optimizers are compared: pure functions on arrays of scores, one seed a row and one optimizer a column.

`verdict.verdict` bundles what `bench rank` prints; the other modules hold its parts.
"""
