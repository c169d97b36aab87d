"""Starts several workers of one job on this machine, as TF_CONFIG describes them."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def start_workers(count: int, *arguments) -> list[subprocess.Popen]:
    """Starts `python ARGUMENTS` once per worker; the chief comes first."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=_environment(addresses, index),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def finished(workers: list[subprocess.Popen], code: int = 0) -> list[tuple[str, str]]:
    """Returns (stdout, stderr) of workers that must end with the exit code."""
    try:
        outputs = [worker.communicate(timeout=900) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    codes = [worker.returncode for worker in workers]
    assert codes == [code] * len(workers), f"{codes}: {outputs}"
    return outputs


def run_workers(count: int, *arguments, code: int = 0) -> list[tuple[str, str]]:
    """Returns what `finished` says of workers that are started and waited for."""
    return finished(start_workers(count, *arguments), code)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _environment(addresses: list[str], index: int) -> dict[str, str]:
    task = {"type": "worker", "index": index}
    place = json.dumps({"cluster": {"worker": addresses}, "task": task})
    return {**os.environ, "TF_CONFIG": place, "TF_CPP_MIN_LOG_LEVEL": "3"}
