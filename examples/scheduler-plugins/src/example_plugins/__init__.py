"""Scheduler plugins to begin one's own from: a score, a filter and a gang."""
