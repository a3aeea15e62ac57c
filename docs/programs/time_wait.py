"""The side that closes first keeps its port for a minute (TIME_WAIT); SO_REUSEADDR allows to bind it again."""

import errno
import socket


def listen(port, reuse):
    """Returns a listener at the port, or the name of the error."""
    sk = socket.socket()
    sk.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    try:
        sk.bind(("127.0.0.1", port))
        sk.listen()
        return sk
    except OSError as error:
        sk.close()
        return errno.errorcode[error.errno]


def outcome(listener):
    if isinstance(listener, str):
        return listener
    listener.close()
    return "listens"


def conversation(first, reuse):
    """Makes one connection, which `first` closes first; closes the listener and returns its port."""
    listener = listen(0, reuse)
    port = listener.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    server, _ = listener.accept()
    earlier, later = (server, client) if first == "server" else (client, server)
    earlier.close()
    later.recv(1)  # b'': the other side has closed
    later.close()
    listener.close()
    return port


print("closes first  SO_REUSEADDR before  and after  the same port again")
for first in ("client", "server"):
    for before in (0, 1):
        for after in (0, 1):
            again = outcome(listen(conversation(first, before), after))
            print(f"{first:12}  {before:19}  {after:9}  {again}")

alive = listen(0, 1)
print("while another program listens, SO_REUSEADDR in both:", outcome(listen(alive.getsockname()[1], 1)))
alive.close()
