"""The Deployment and ReplicaSet controllers: they keep as many pods as were asked for.

A folder a controller: what decides is pure (`reconciler` and what it stands on), and one module,
`controller`, reads and writes the cluster. `claiming` and `own_writes` serve both; `app` puts the
controllers together, and `operator` gives them to kopf, which has the process.
"""

import sys

if "kopf.cli" in sys.modules:  # `kopf run -m whipstaff.controllers` wants its handlers registered.
    from whipstaff.controllers import operator

    operator.register_defaults()
