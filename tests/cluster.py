"""Clusters for tests: what is slow to start is started once per module."""

import contextlib
import socket
import threading
import time


@contextlib.contextmanager
def local_cluster(n_workers, **keywords):
    """Yield a cluster and its client."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, dashboard_address=":0", **keywords
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


@contextlib.contextmanager
def in_process_cluster(n_workers):
    """Yield a client of a scheduler and workers that are threads of this process, yet speak TCP."""
    with local_cluster(n_workers, processes=False, protocol="tcp://") as (_, client):
        yield client


class CountingProxy:
    """Passes TCP connections on to an address, and counts their bytes."""

    def __init__(self, address):
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for a, b, name in ((near, far, "sent"), (far, near, "received")):
                    threading.Thread(target=self._pump, args=(a, b, name), daemon=True).start()

    def _pump(self, a, b, name):
        with contextlib.suppress(OSError):
            while data := a.recv(2**16):
                setattr(self, name, getattr(self, name) + len(data))
                b.sendall(data)
        for end in (a, b):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self):
        self._listener.close()


def until(condition, seconds=30):
    """Wait for a condition; return whether it came true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
