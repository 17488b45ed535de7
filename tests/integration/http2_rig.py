"""HTTP/2 by hand, for what no gRPC library would send."""

import select
import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def text(value):
    assert len(value) < 127
    return bytes([len(value)]) + value


def header(name, value):
    """A literal that no table remembers."""
    return b"\0" + text(name) + text(value)


def call_headers(path, *more):
    return (b"\x83\x86" + header(b":path", path) + header(b":authority", b"localhost") +
            header(b"content-type", b"application/grpc") + header(b"te", b"trailers") +
            b"".join(header(*one) for one in more))


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + \
        struct.pack(">I", stream) + payload


class Connection:
    """One connection; what the broker sends is read while there is something to send."""

    def __init__(self, target, preface=PREFACE + frame(SETTINGS, 0, 0)):
        host, port = target.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.window, self.windows, self.initial = 65535, {}, 65535
        self.frames, self.ended = [], False
        self._in = self._answers = b""
        self._poll = select.poll()
        self._poll.register(self.socket)
        if preface:
            self.send(preface)

    def send(self, raw):
        """True unless the broker ended the connection."""
        view, self._answers = memoryview(raw if raw else self._answers), \
            self._answers if raw else b""
        while view and not self.ended:
            ready = self._wait(select.POLLIN | select.POLLOUT, 20)
            assert ready, "it neither reads nor writes"
            if ready & ~select.POLLOUT:
                self._receive()
            if ready & select.POLLOUT and not self.ended:
                try:
                    view = view[self.socket.send(view[:1 << 16]):]
                except (BrokenPipeError, ConnectionResetError):
                    self.ended = True
            # Never in the middle of a frame.
            if not view and self._answers:
                view, self._answers = memoryview(self._answers), b""
        return not self.ended

    def _wait(self, events, seconds):
        self._poll.modify(self.socket, events)
        return sum(events for _, events in self._poll.poll(seconds * 1000))

    def _receive(self):
        try:
            got = self.socket.recv(1 << 16)
        except ConnectionResetError:
            got = b""
        if not got:
            self.ended = True
        self._in += got
        while len(self._in) >= 9:
            length = int.from_bytes(self._in[:3], "big")
            if len(self._in) < 9 + length:
                break
            kind, flags = self._in[3], self._in[4]
            stream = int.from_bytes(self._in[5:9], "big") & 0x7FFFFFFF
            payload, self._in = self._in[9:9 + length], self._in[9 + length:]
            self.frames.append((kind, flags, stream, payload))
            if kind == WINDOW:
                more = int.from_bytes(payload, "big")
                if stream == 0:
                    self.window += more
                else:
                    self.windows[stream] = self.windows.get(stream, 0) + more
            elif kind == SETTINGS and not flags & ACK:
                for at in range(0, length, 6):
                    name, value = struct.unpack(">HI", payload[at:at + 6])
                    if name == 4:
                        self.initial = value
                self._answers += frame(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                self._answers += frame(PING, ACK, 0, payload)

    def until(self, holds, within=20):
        """Reads until it holds; whether it does, at the end of the connection or of the time."""
        deadline = time.monotonic() + within
        while not holds() and not self.ended:
            if not self._wait(select.POLLIN, max(0, deadline - time.monotonic())):
                break
            self._receive()
            self.send(b"")
        return holds()

    def call(self, stream, path, *more):
        return self.send(frame(HEADERS, END_HEADERS, stream, call_headers(path, *more)))

    def data(self, stream, raw, within=20):
        """Sends it as far as the broker's windows allow; how much that was."""
        sent = 0
        while sent < len(raw):
            def room():
                return min(self.window, self.initial + self.windows.get(stream, 0), 16384)
            if not self.until(lambda: room() > 0 or self.over(stream), within) or \
                    self.over(stream):
                break
            part = raw[sent:sent + room()]
            if not self.send(frame(DATA, 0, stream, part)):
                break
            self.window -= len(part)
            self.windows[stream] = self.windows.get(stream, 0) - len(part)
            sent += len(part)
        return sent

    def of(self, kind, stream=None):
        return [one for one in self.frames
                if one[0] == kind and (stream is None or one[2] == stream)]

    def over(self, stream):
        return self.ended or bool(self.of(RST_STREAM, stream)) or any(
            one[1] & END_STREAM for one in self.of(HEADERS, stream))

    def calmed(self):
        """The reason of a GOAWAY, if one came."""
        return [one[3][8:] for one in self.of(GOAWAY)]

    def raw(self):
        """What came and is no frame."""
        return self._in

    def close(self):
        self.socket.close()
