"""TCP carries bytes, not messages: what one send sent need not be what one receive returns.

Expects an echo server, such as `lockstep serve`, at the port given.
"""

import socket
import sys

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8898


def receive(sk, count):
    """Receives until `count` bytes are here; returns the sizes in which they came."""
    sizes = []
    while sum(sizes) < count:
        sizes.append(len(sk.recv(1024)))
    return sizes


with socket.create_connection(("127.0.0.1", port)) as sk:
    sk.sendall(b"x" * 3000)
    print("one send of 3000 bytes came back in receives of", receive(sk, 3000))
    sk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(3):
        sk.sendall(b"hi!")
    print("three sends of 3 bytes came back in receives of", receive(sk, 9))
