"""How a run happens: index, chunks, commits, ledger, lease, the two executors and what the user sees of it.

Knows what a chunk is and which files stages leave; never what a stage computes.
"""
