"""Real containers, by any runtime that speaks the CRI; made for and tested with containerd."""
