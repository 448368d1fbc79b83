"""Images of containers.

`pulling` makes sure that they are there, with `keyrings` of credentials and `pull_records` of who
may use what; `collection` deletes what nothing uses when the disk fills up.
"""
