"""What the components share: client, informers, work queues, leases, events, serving."""
