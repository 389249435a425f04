"""Torch networks, their losses and their decoding.

Know nothing of Arrow, of pipeline YAMLs or of Ray.
"""
