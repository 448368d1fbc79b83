"""Ending pods before the node runs out of something.

`signals` says what can run out, `ranking` who goes first, `decisions` what follows from a
`summary`; `evictor` is the loop that does it.
"""
