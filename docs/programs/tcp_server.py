"""The tutorial's first server: one client, one request, one reply."""

import socket
import sys

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8898

sk = socket.socket()  # AF_INET, SOCK_STREAM: TCP over IPv4
sk.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # before bind; see docs/time-wait.md
sk.bind(("127.0.0.1", port))
sk.listen()
print("listening on port", sk.getsockname()[1], flush=True)

conn, addr = sk.accept()  # sleeps until a connection is in the queue
request = conn.recv(1024)  # sleeps until there is data; returns at most 1024 bytes
print(request)
conn.sendall(b"hi")  # send() may take only a part; sendall() sends the rest, too
conn.close()
sk.close()
