"""The regression check: a candidate's runs against a baseline's, gate by gate.

`snapshot` holds what is compared, `baseline` the file of it, `gates` the statistics, `check` what they mean;
`candidate` plans the runs of `--run`; `text`, `junit`, `github` and `exports` write the result.
"""
