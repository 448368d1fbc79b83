"""Control groups of pods, of versions 1 and 2.

`manager` makes them and `numbers` reckons what they are set to; the others know the kernel's ways.
"""
