"""Probes: whether containers have started, are ready, are alive.

`Prober` is the shell, with one timer for each probe; `checks` is the pure part (when to look, how
often in a row before it counts), `actions` looks once, by `web` and `health` and `ports`.
"""

from whipstaff.node_agent.probing.prober import Prober

__all__ = ["Prober"]
