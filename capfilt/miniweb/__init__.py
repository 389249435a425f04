"""A small web on loopback: pictures that can be told in words, noisy texts, bad URLs, and the truth about all of them.

Knows nothing about models, stages or runs.
"""
