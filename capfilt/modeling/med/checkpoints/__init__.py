"""Published MED checkpoints: read, and written for others to load.

Know the names that others give to our tensors; nothing of training or pipelines.
"""
