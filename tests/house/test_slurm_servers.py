"""scripts/slurm/served.sbatch: a job starts its servers, waits until they are healthy, runs over them, and ends them.

`scontrol` and `srun` are stand-ins that name this machine and start the words here; servers and command are processes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm" / "served.sbatch"
SERVER = """
import http.server, sys, time
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers()
    def log_message(self, *words): pass
time.sleep(1)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on this machine."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text("#!/bin/sh\necho localhost\n")
    (tools / "srun").write_text(
        '#!/bin/bash\nwhile [[ $1 == --* || $1 =~ ^[0-9]+$ ]]; do shift; done\nexec "$@"\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    (tmp_path / "server.py").write_text(SERVER)
    return os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-2]", "PORT": str(port),
        "SERVE": f"{sys.executable} {tmp_path / 'server.py'} {port}", "no_proxy": "localhost",
    }  # fmt: skip


def job(slurm: dict[str, str], *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", str(SCRIPT), "policy", "/models/a b", "--", *command]
    return subprocess.run(words, env=slurm | more, capture_output=True, text=True, timeout=120)


def listens(slurm: dict[str, str]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(slurm["PORT"]))) == 0


def test_the_command_runs_over_healthy_servers_that_end_with_it(slurm: dict[str, str]) -> None:
    done = job(slurm, "sh", "-c", 'curl -sf "http://localhost:$PORT/health" && echo "$0"')
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"models.policy.engine.server=[http://localhost:{slurm['PORT']}]"
    assert not listens(slurm)
    failed = job(slurm, "sh", "-c", "exit 5")
    assert failed.returncode == 5
    assert not listens(slurm)


def test_servers_that_die_or_never_come_up_end_the_job(slurm: dict[str, str]) -> None:
    dead = job(slurm, "touch", "reached", SERVE="false")
    assert (dead.returncode, "ended before they were up" in dead.stderr) == (8, True)
    slow = job(slurm, "touch", "reached", SERVE="sleep 60", START_SECONDS="3")
    assert (slow.returncode, "is not up after 3 s" in slow.stderr) == (8, True)


def test_a_dry_run_shows_vllm_as_the_docs_have_it(slurm: dict[str, str]) -> None:
    shown = {key: value for key, value in slurm.items() if key != "SERVE"}
    done = job(shown, "ratchet", "run", "r.yaml", RATCHET_DRY_RUN="1", MAX_LORA_RANK="16")
    assert done.returncode == 0, done.stderr
    start, command = done.stdout.splitlines()
    assert "--enable-lora --max-lora-rank 16" in start
    assert "/models/a b" in start
    assert command.startswith("'ratchet' 'run' 'r.yaml' 'models.policy.engine.server=[http://localhost:")
    for words in ([], ["policy", "base"], ["policy", "base", "ratchet", "run"]):
        assert subprocess.run(["bash", str(SCRIPT), *words], capture_output=True).returncode == 2
