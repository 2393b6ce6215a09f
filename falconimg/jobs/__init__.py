"""Jobs: batches that are on record before they are answered, and whose images are made by whoever claims them.

`ledger` is the truth of every job, `submission` puts one on record, `execution` makes a claimed image, `worker` is the
process that claims them one after the other and sweeps.
"""
