"""The Deployment and ReplicaSet controllers: they keep as many pods as were asked for.

A folder a controller: what decides is pure (`reconciler` and what it stands on), and one module,
`controller`, reads and writes the cluster. `claiming` and `own_writes` serve both; `app` puts the
process together.
"""
