"""TCP carries bytes, not messages: the bytes of one send may come in several receives.

Needs an echo server, such as `lockstep serve`, at the given port.
"""

import socket
import sys

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8898


def receive(sk, count):
    """Receives `count` bytes and returns the size of each receive."""
    sizes = []
    while sum(sizes) < count:
        data = sk.recv(1024)
        if not data:  # b'': the server has closed, there is no more
            sys.exit(f"the server closed after {sum(sizes)} of {count} bytes")
        sizes.append(len(data))
    return sizes


with socket.create_connection(("127.0.0.1", port)) as sk:
    sk.sendall(b"x" * 3000)
    print("one send of 3000 bytes came back in receives of", receive(sk, 3000))
    sk.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(3):
        sk.sendall(b"hi!")
    print("three sends of 3 bytes came back in receives of", receive(sk, 9))
