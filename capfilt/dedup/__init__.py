"""Near-duplicate pictures: neighbours in embedding space, the groups they form, and overlaps with evaluation sets.

Finds and records; which row of a group survives is decided by `capfilt.stages.select`.
"""
