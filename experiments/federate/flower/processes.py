"""Flower's processes on this machine: a SuperLink, a SuperNode a client.

No telemetry, no look for updates, no installation of packages; all that
Flower writes is in the folder of the run.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import experiments

HOST = "127.0.0.1"
LOOKING = 0.2  # seconds between two looks at a port or file
STARTING = 120.0  # seconds that a process has to start
ENDING = 1.5  # seconds that it has to end
APP = "experiments.federate.flower.apps"

# Ends the groups of processes whose numbers it reads once its input ends, and
# that is as soon as this process has ended, however it did.
GUARD = f"""
import contextlib, os, signal, sys, time
groups = [int(line) for line in iter(sys.stdin.readline, "")]
for number in (signal.SIGTERM, signal.SIGKILL):
  for group in groups:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(group, number)
  if number == signal.SIGTERM:
    time.sleep({ENDING})
"""


class Federation(NamedTuple):
  """The processes that wait for apps."""

  folder: pathlib.Path
  environment: dict[str, str]
  processes: list[subprocess.Popen[bytes]]
  guard: subprocess.Popen[bytes]


def environment(folder: pathlib.Path) -> dict[str, str]:
  """The environment of all processes."""
  source = pathlib.Path(experiments.__file__).parent.parent
  paths = [str(source), os.environ.get("PYTHONPATH", "")]
  programs = pathlib.Path(sys.executable).parent
  return os.environ | {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_HOME": str(folder / "home"),
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    # Each message starts a process, which need not compile again.
    "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    # Flower starts its own programs by their names.
    "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")]),
    "PYTHONUNBUFFERED": "1",
  }


def free_ports(count: int) -> list[int]:
  """Ports that nobody listens on now."""
  with contextlib.ExitStack() as stack:
    ports = []
    for _ in range(count):
      listener = stack.enter_context(socket.socket())
      listener.bind((HOST, 0))
      ports.append(listener.getsockname()[1])
    return ports


def opened(folder: pathlib.Path) -> Federation:
  """A federation without processes, but for the guard that ends them."""
  guard = subprocess.Popen(
    [sys.executable, "-I", "-S", "-c", GUARD],
    stdin=subprocess.PIPE,
    start_new_session=True,
  )
  return Federation(folder, environment(folder), [], guard)


@contextlib.contextmanager
def federation(folder: pathlib.Path, clients: int) -> Iterator[Federation]:
  """Starts a SuperLink and the SuperNodes, and ends them all."""
  (folder / "home").mkdir(parents=True, exist_ok=True)
  server, *ports = free_ports(clients + 1)
  made = opened(folder)
  address = f"{HOST}:{server}"
  (folder / "home" / "config.toml").write_text(
    '[superlink]\ndefault = "local"\n\n[superlink.local]\n'
    f'address = "{address}"\ninsecure = true\n'
  )
  try:
    start(
      made,
      "superlink",
      *("flower-superlink", "--insecure", "--host", HOST),
      *("--port", str(server), "--disable-runtime-dependency-installation"),
    )
    wait_for_port(made, server)
    for client, port in enumerate(ports):
      start(
        made,
        f"supernode_{client}",
        *("flower-supernode", "--insecure", "--superlink", address),
        *("--host", HOST, "--port", str(port)),
        *("--node-config", f"client={client}"),
      )
    yield made
  finally:
    end(made)


def start(made: Federation, name: str, *command: str) -> None:
  """Starts a process in a group of its own, which its children are in too."""
  with (made.folder / f"{name}.log").open("ab") as log:
    process = subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      env=made.environment,
      start_new_session=True,
    )
  made.processes.append(process)
  assert made.guard.stdin is not None
  made.guard.stdin.write(f"{process.pid}\n".encode())
  made.guard.stdin.flush()


def end(made: Federation) -> None:
  """Ends the processes and all that they started."""
  assert made.guard.stdin is not None
  made.guard.stdin.close()
  made.guard.wait()
  for process in made.processes:
    process.wait()


def wait_for_port(made: Federation, port: int) -> None:
  """Waits until the SuperLink listens."""
  limit = time.monotonic() + STARTING
  while time.monotonic() < limit:
    expect_alive(made)
    with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
      return
    time.sleep(LOOKING)
  raise TimeoutError(
    f"Flower's SuperLink did not listen on port {port} in {STARTING:g} s; see "
    f"{made.folder / 'superlink.log'}."
  )


def expect_alive(made: Federation) -> None:
  """Raises RuntimeError if the SuperLink has ended."""
  if made.processes[0].poll() is not None:
    raise RuntimeError(
      f"Flower's SuperLink ended; see {made.folder / 'superlink.log'}."
    )


def ended_in(results: pathlib.Path) -> bool:
  """Whether the server has left its last file."""
  return (results / "end.json").exists()


def is_running(results: pathlib.Path) -> bool:
  """Whether the server's process, which has begun, is there."""
  begun = json.loads((results / "begun.json").read_text())
  try:
    os.kill(begun["pid"], 0)
  except ProcessLookupError:
    return False
  return True


def run_app(made: Federation, name: str, flags: Mapping[str, Any]) -> Any:
  """Runs the app; returns its folder and what the server wrote at the end."""
  folder = made.folder / name
  results = folder / "results"
  results.mkdir(parents=True, exist_ok=True)
  for path in results.iterdir():
    path.unlink()  # of a run that was killed
  entries = dict(flags) | {"folder": str(results.resolve())}
  # A string of TOML is one of JSON.
  lines = [f"{key} = {json.dumps(x)}" for key, x in entries.items()]
  (folder / "pyproject.toml").write_text(
    f'[project]\nname = "{name}"\nversion = "1.0.0"\nlicense = "Apache-2.0"\n'
    'dependencies = []\n\n[tool.flwr.app]\npublisher = "kdjax"\n\n'
    f'[tool.flwr.app.components]\nserverapp = "{APP}:server_app"\n'
    f'clientapp = "{APP}:client_app"\n\n[tool.flwr.app.config]\n'
    + "\n".join(lines)
    + "\n"
  )
  log = made.folder / f"{name}.log"
  with log.open("ab") as stream:
    done = subprocess.run(
      ["flwr", "run", str(folder), "local"],
      stdin=subprocess.DEVNULL,
      stdout=stream,
      stderr=stream,
      env=made.environment,
      check=False,
    )
  if done.returncode:
    raise RuntimeError(f"`flwr run` failed; see {log}.")
  limit = time.monotonic() + STARTING
  while not ended_in(results):
    expect_alive(made)
    begun = (results / "begun.json").exists()
    if begun and not is_running(results) and not ended_in(results):
      raise RuntimeError(
        "Flower's server ended in the middle of a run; see "
        f"{made.folder / 'superlink.log'}."
      )
    if not begun and time.monotonic() > limit:
      raise TimeoutError(
        f"Flower's server did not begin in {STARTING:g} s; see "
        f"{made.folder / 'superlink.log'}."
      )
    time.sleep(LOOKING)
  ended = json.loads((results / "end.json").read_text())
  if "error" in ended:
    raise RuntimeError(f"Flower's server failed: {ended['error']}")
  return results, ended
