"""A local cluster: the stock control plane and our components as plain processes."""
