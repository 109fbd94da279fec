"""Orchestration: the DVC stages, the Prefect flow, the `atlas` command."""

import os
import resource
import sys

_BYTE_CODE_BYTES = 64 * 2**20  # more than the byte code of all modules takes


def _may_cut_off_files() -> bool:
    """Whether this machine may soon cut off what is written: the disk is nearly full, or the size of files limited."""
    disk, limit = os.statvfs(__file__), resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return disk.f_bavail * disk.f_frsize < _BYTE_CODE_BYTES or limit != resource.RLIM_INFINITY


# Python before 3.12.8 and 3.13.1 does not notice that byte code was cut off (github.com/python/cpython/issues/126606):
# the module could not be imported again until somebody deletes its file.
if _may_cut_off_files():
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

# Disables telemetry and lets Prefect run without a server. Set before any import of these; child processes inherit it.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # s; without, a run counts as crashed (flows.prefect_app.deployment)
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the first start creates the database: 25 s measured
    # Torch's threads sleep while they wait for each other. By default they spin, and any other busy process then slows
    # training tenfold (measured: 80 images/s instead of 730 on 2 cores beside one test run).
    "OMP_WAIT_POLICY": "PASSIVE",
}.items():
    os.environ.setdefault(_name, _value)
