"""The Deployment controller: a ReplicaSet for each pod template, and the way between them."""
