"""A node agent: the kubelet's state machine above pluggable providers."""
