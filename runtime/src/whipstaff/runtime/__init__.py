"""What the three components share: the API client, informers, work queues, leases, events, serving."""
