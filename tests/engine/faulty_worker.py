"""A worker that does what its task says, to see what its parent makes of it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

from dinat_deploy.engine.messages import Channel


def main() -> None:
    channel = Channel(os.dup(1))
    task = sys.stdin.buffer.readline().decode().strip()
    print("warming up", file=sys.stderr, flush=True)
    channel.send("stage", name="Trying")
    if task == "segfault":
        ctypes.string_at(0)
    elif task in ("SIGABRT", "SIGKILL"):
        os.kill(os.getpid(), signal.Signals[task])
    elif task == "exit":
        print("gone without a word", file=sys.stderr, flush=True)
        sys.exit(7)
    elif task == "exception":
        raise RuntimeError("a bug in the worker")
    elif task == "junk":
        os.write(1, b'not JSON\n[1]\n{"kind": "done", "cut o')
    elif task == "crash after done":
        channel.send("done", outcome={})
        ctypes.string_at(0)
    elif task.startswith("sleep"):
        threading.Thread(target=_end_with_the_parent, daemon=True).start()
        channel.send("sleeping", pid=os.getpid())
        time.sleep(120)
    else:
        channel.send("done", outcome={"environment": os.environ.get(task)})


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
