"""What each family of networks looks like: one file per family, the typed form of its models/*.yaml."""
