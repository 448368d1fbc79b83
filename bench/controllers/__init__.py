"""The Deployment and ReplicaSet controllers against the stock ones."""
