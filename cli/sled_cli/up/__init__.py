"""`sled up`: runs SLEDServer and EdgeDrafter documents as processes of this machine.

`documents` reads them, `plan` decides what to run (pure), `configs` renders each process's
configuration, `keeper` and `fleet` keep the processes alive. Nothing here may talk to a cluster.
"""

from __future__ import annotations
