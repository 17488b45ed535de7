"""Fixtures of the Python SDK's tests."""

import pytest

from fake_broker import FakeBroker, PATIENCE
from tocsin import Worker


@pytest.fixture
def broker():
    one = FakeBroker()
    yield one
    one.stop()


class Running:
    """Workers that are attached to the fake broker; ended with the test."""

    def __init__(self, broker):
        self.broker = broker
        self.workers = []
        self.hello = None

    def worker(self, **options):
        one = self.broker.connect(Worker("orders", token="secret", **options))
        self.workers.append(one)
        return one

    def start(self, worker, heartbeat_ms=4000):
        worker.start()
        return self.session(heartbeat_ms)

    def session(self, heartbeat_ms=4000):
        session = self.broker.next_session()
        self.hello = session.pop().hello
        session.welcome(heartbeat_ms)
        return session

    def end(self):
        for worker in self.workers:
            worker.abort()
        for worker in self.workers:
            worker.stop(PATIENCE)


@pytest.fixture
def running(broker):
    one = Running(broker)
    yield one
    one.end()
