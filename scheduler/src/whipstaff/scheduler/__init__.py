"""A scheduler whose every decision is an array operation over all nodes."""
