"""The tutorial's first client: one request, one reply, and the end of the connection."""

import socket
import sys

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8898

sk = socket.socket()
sk.connect(("127.0.0.1", port))
sk.sendall(b"hello!")
reply = sk.recv(1024)
print(reply)
print(sk.recv(1024))  # b'': the server has closed, there is no more
sk.close()
