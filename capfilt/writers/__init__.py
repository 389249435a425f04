"""What a run leaves behind: shards in Parquet and WebDataset, the data card, views, and folders that appear whole.

Writes what it is given; which rows and texts were kept was decided before.
"""
