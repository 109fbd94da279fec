"""Prefect's temporary server, as a process that ends with the flow, however that ends.

Prefect starts it as an ordinary child process. If the flow is killed, that one would stay: one server more per killed
flow. ``python -m flows.prefect_app.temporary_server PORT`` is the child.
"""

import os
import subprocess
import sys
from typing import Any

from atlas_model.core.processes import die_with_parent

if __name__ == "__main__":
    die_with_parent()  # before the imports of Prefect, which take seconds

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

HOST = "127.0.0.1"
# As Prefect sets them: no UI; neither does this server start another one.
SETTINGS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class TemporaryServer(SubprocessASGIServer):
    """The temporary server; Prefect uses this one, too, because there is one per process."""

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        """Start the child process."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_app.temporary_server", str(self.port)],
            env={**os.environ, **SETTINGS, **get_current_settings().to_environment_variables(exclude_unset=True)},
        )


def _main() -> None:
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host=HOST,
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    _main()
