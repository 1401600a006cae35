"""A terminal for tests of what is shown on one."""

import os
import pty
import subprocess
import sys
import threading


def run_on_terminal(script: str, **environment: str) -> str:
    """What a script writes to a stderr that is a terminal."""
    terminal, end = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(terminal, 65536):
                parts.append(data)
        except OSError:  # how Linux says that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "200", **environment}
    subprocess.run([sys.executable, "-c", script], stderr=end, env=os.environ | variables, check=True, timeout=60)
    os.close(end)
    reader.join()
    os.close(terminal)
    return b"".join(parts).decode()
