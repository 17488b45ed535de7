"""A broker for the Python SDK's tests: a real gRPC server in this process whose every frame the
test decides. Tests wait on queues, never on time alone; PATIENCE only makes them fail.
"""

import concurrent.futures
import dataclasses
import queue
import socket
import threading

import grpc

from tocsin import CloudEvent
from tocsin._wire import (BrokerFrame, PublishRequest, PublishResponse, WorkerFrame)

PATIENCE = 20.0


class Over(Exception):
    """The stream has ended."""


class FakeSession:
    """One Attach stream, as the broker sees it."""

    def __init__(self, context):
        self._context = context
        self._out = queue.SimpleQueue()
        self.frames = queue.Queue()  # None: the worker ended its side
        self.started_through = 0
        self.ranges = 0
        self._closes_itself = True
        self.authorization = dict(context.invocation_metadata()).get("authorization", "")

    # ---- to the worker

    def send(self, frame):
        self._out.put(frame if isinstance(frame, bytes) else frame.SerializeToString())

    def welcome(self, heartbeat_ms=4000):
        frame = BrokerFrame()
        frame.welcome.protocol = 1
        frame.welcome.session = 7
        frame.welcome.heartbeat_ms = heartbeat_ms
        self.send(frame)

    def deliver(self, function, first, count=1, attempt=1, lease_ms=30_000, events=None):
        """`count` deliveries to one function, handles from `first` on."""
        frame = BrokerFrame()
        number = 1 + sum(function.encode()) % 1000
        frame.deliveries.functions.add(function=number, name=function)
        frame.deliveries.triggers.add(partition=1, trigger=3, name="on-order")
        for i in range(count):
            handle = first + i
            event = events[i] if events else CloudEvent(
                "order.paid", "/shop", {"total": 12}, id=str(handle)).to_protobuf()
            frame.deliveries.deliveries.add(
                handle=handle, token=1000 + handle, partition=1, offset=100 + handle, trigger=3,
                attempt=attempt, lease_ms=lease_ms, function=number, event=event,
                recorded_us=1_700_000_000_000_000)
        self.send(frame)

    def cancel(self, *handles):
        frame = BrokerFrame()
        frame.cancel.handles.extend(handles)
        self.send(frame)

    def drain(self):
        frame = BrokerFrame()
        frame.drain.reason = "restart"
        self.send(frame)

    def keep_open(self):
        """The stream does not end when the worker ends its side, but by close()."""
        self._closes_itself = False

    def close(self):
        self._out.put(None)

    def kill(self):
        self._context.cancel()

    # ---- from the worker

    def pop(self):
        """The next frame of any kind."""
        frame = self.frames.get(timeout=PATIENCE)
        if frame is None:
            raise Over
        return frame

    def next_frame(self):
        """The next frame that is not a report of started deliveries or renewals alone."""
        while True:
            frame = self.pop()
            if frame.HasField("answers"):
                self.started_through = frame.answers.started_through
                if not frame.answers.acked and not frame.answers.others:
                    continue
            return frame

    def acked(self, count):
        """Reads until `count` deliveries are acked; the handles in order of arrival."""
        handles = []
        while len(handles) < count:
            frame = self.next_frame()
            for one in frame.answers.acked:
                self.ranges += 1
                handles += range(one.first, one.last + 1)
        return handles

    def next_other(self):
        frame = self.next_frame()
        assert frame.answers.others, f"no answer of its own: {frame}"
        return frame.answers.others[0]


class FakeBroker:
    """on_publish: called with (PublishRequest, PublishResponse); False ends the stream with
    UNAVAILABLE instead of the answer, a (code, text) with that."""

    def __init__(self):
        self.sessions = queue.Queue()
        self.on_publish = None
        self.attach_status = None
        self.publish_metadata = queue.Queue()
        self._server = None
        self.port = 0
        self.start()

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=32))
        server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler("tocsin.v1.Worker", {
                "Attach": grpc.stream_stream_rpc_method_handler(
                    self._attach, WorkerFrame.FromString, None)}),
            grpc.method_handlers_generic_handler("tocsin.v1.Publisher", {
                "PublishStream": grpc.stream_stream_rpc_method_handler(
                    self._publish, PublishRequest.FromString,
                    PublishResponse.SerializeToString)}),
        ))
        self.port = server.add_insecure_port(self.target)
        assert self.port, "no port"
        server.start()
        self._server = server

    def stop(self):
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def next_session(self):
        """The next Attach stream; its Hello is its first frame."""
        return self.sessions.get(timeout=PATIENCE)

    def connect(self, thing):
        """Makes a Worker or Publisher come here, and come back soon."""
        thing._connection = dataclasses.replace(
            thing._connection, target=self.target, backoff_min=0.005, backoff_max=0.05)
        return thing

    def _attach(self, requests, context):
        if self.attach_status is not None:
            (code, text), self.attach_status = self.attach_status, None
            context.abort(code, text)
        session = FakeSession(context)

        def read():
            try:
                for frame in requests:
                    session.frames.put(frame)
            except Exception:  # the call ended: gRPC says it so
                pass
            session.frames.put(None)
            if session._closes_itself:
                session._out.put(None)

        threading.Thread(target=read, daemon=True).start()
        self.sessions.put(session)
        while True:
            frame = session._out.get()
            if frame is None:
                return
            yield frame

    def _publish(self, requests, context):
        self.publish_metadata.put(dict(context.invocation_metadata()))
        for request in requests:
            response = PublishResponse(sequence=request.sequence, durability=2)
            said = self.on_publish(request, response)
            if said is False:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            if isinstance(said, tuple):
                context.abort(*said)
            yield response


class Proxy:
    """A TCP relay to a port that can fall silent: it keeps its connections and moves nothing."""

    def __init__(self, port):
        self._port = port
        self._silent = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self):
        self._silent.set()

    def speak_again(self):
        """For new connections; those that were silent are past saving."""
        self._silent = threading.Event()

    def close(self):
        for one in [self._listener, *self._sockets]:
            one.close()

    def _accept(self):
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [here, there]
            silent = self._silent
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._relay, args=(source, sink, silent),
                                 daemon=True).start()

    @staticmethod
    def _relay(source, sink, silent):
        try:
            while True:
                piece = source.recv(65536)
                if not piece:
                    break
                if not silent.is_set():
                    sink.sendall(piece)
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
