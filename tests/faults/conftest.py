"""A disk that a test may fill."""

import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
  """A file system of some megabytes, where one may be made."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(disk)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("no right to make a file system")
  yield disk
  subprocess.run(["umount", "--lazy", str(disk)], check=True)
