"""What Python itself allows: `send_loop.c` again, a ready frame and one `socket.send` of it for each subscriber.

usage: send_loop.py SUBSCRIBERS. It prints its port and obeys "EVENTS MODE" as the other does.
"""

import socket
import sys
import time

EVENT_BYTES = 300
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def make_frame() -> bytes:
    head = b'{"type":"event","sent":%d,"fill":"' % time.monotonic_ns()
    event = head + b"x" * (EVENT_BYTES - len(head) - 2) + b'"}'
    return bytes((0x81, 126)) + EVENT_BYTES.to_bytes(2, "big") + event


def take(listening: socket.socket) -> socket.socket:
    opened, _ = listening.accept()
    opened.recv(4096)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.sendall(ANSWER)
    opened.setblocking(False)
    return opened


def main() -> None:
    count = int(sys.argv[1])
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listening.getsockname()[1], flush=True)
    subscribers = [take(listening) for _ in range(count)]
    sends = [one.send for one in subscribers]
    for line in sys.stdin:
        events, mode = line.split()
        for number in range(int(events)):
            frame = make_frame()
            for send in [sends[number % count]] if mode == "scoped" else sends:
                # A paced client always has room, so there is nothing to wait for.
                if send(frame) != len(frame):
                    sys.exit("send_loop.py: a short write")


main()
