"""The package's types: strict for itself and its examples, useful to who uses it."""

import os
import subprocess
import sys

import pytest

import tocsin

PACKAGE = os.path.dirname(tocsin.__file__)
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))

CONSUMER = '''
import asyncio
from dataclasses import dataclass
from typing import List, Sequence
from tocsin import (BatchResult, CloudEvent, Context, Publisher, Reject, Retry, TestBroker, Worker)

worker = Worker("orders")

@dataclass
class Order:
    amount: float

@worker.function("charge", concurrency=8)
async def charge(event: CloudEvent, ctx: Context) -> None:
    order = event.data_as(Order)
    if ctx.attempt > 3:
        raise Reject("give up")
    if order.amount > 10:
        raise Retry(after="10s")
    ctx.emit(type="order.charged", data=order, subject=event.subject.upper())

@worker.batch("index", max_events=50)
def index(events: Sequence[CloudEvent]) -> BatchResult:
    return BatchResult(failed=events[:1])

async def main() -> None:
    with Publisher() as publisher:
        result = await publisher.publish_async(CloudEvent("t", "/s", Order(1)))
        print((result.partition or 0) + 1)
    async with TestBroker(worker) as broker:
        print((await broker.emit("charge", CloudEvent("t", "/s"))).reason.upper())

called: None = asyncio.run(charge(CloudEvent("t", "/s"), None))  # type: ignore[arg-type]
'''


MISTAKES = [
    ("CloudEvent('t')", "source"),
    ("ctx.emit(data=1)", "No overload variant"),
    ("ctx.attempt.upper()", '"int" has no attribute "upper"'),
    ("Retry(after=[])", "after"),
    ("event.subject = 'x'", "read-only"),
    ("worker.function('x', concurrent=1)", "concurrent"),
]


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mypy")

    def check(*arguments, version="3.9"):
        environment = dict(os.environ, MYPYPATH=os.path.dirname(PACKAGE))
        return subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--python-version", version, *arguments],
            env=environment, cwd=directory, text=True, capture_output=True, check=False)

    return check


class TestTypes:
    @pytest.mark.parametrize("version", ["3.9", "3.11"])
    def test_the_package_and_its_examples_are_strict(self, mypy, version):
        example = os.path.join(ROOT, "examples/quickstart/worker.py")
        done = mypy(os.path.join(ROOT, "sdk/python/tocsin"), example, version=version)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_types_reach_who_uses_them(self, mypy, tmp_path):
        assert os.path.exists(os.path.join(PACKAGE, "py.typed"))
        (tmp_path / "consumer.py").write_text(CONSUMER)
        done = mypy(str(tmp_path / "consumer.py"))
        assert done.returncode == 0, done.stdout + done.stderr

    def test_mistakes_are_found(self, mypy, tmp_path):
        (tmp_path / "mistakes.py").write_text(
            "from tocsin import CloudEvent, Context, Retry, Worker\n"
            "def f(event: CloudEvent, ctx: Context, worker: Worker) -> None:\n"
            + "".join(f"    {line}\n" for line, _ in MISTAKES))
        done = mypy(str(tmp_path / "mistakes.py"))
        for number, (line, words) in enumerate(MISTAKES, 3):
            found = [said for said in done.stdout.split("\n")
                     if f"mistakes.py:{number}: error" in said]
            assert found and words in found[0], f"{line}: {done.stdout}"


class TestPackage:
    def test_everything_public_is_exported_and_documented(self):
        for name in tocsin.__all__:
            assert getattr(tocsin, name) is not None
        for name in ("CloudEvent", "Context", "Worker", "Publisher", "TestBroker", "BatchResult"):
            thing = getattr(tocsin, name)
            assert thing.__doc__
            undocumented = [method for method in vars(thing) if not method.startswith("_")
                            and callable(getattr(thing, method))
                            and not getattr(thing, method).__doc__]
            assert undocumented == [], name

    def test_the_built_package_is_the_source(self):
        source = os.path.join(ROOT, "sdk/python/tocsin")
        names = sorted(n for n in os.listdir(source) if n.endswith((".py", ".typed")))
        built = sorted(n for n in os.listdir(PACKAGE) if n.endswith((".py", ".typed")))
        assert built == names, "sdk/python/CMakeLists.txt lists the files: add or take away"

    def test_importing_it_does_not_load_grpc(self):
        # A unit test of handlers, or a fork before the start, must not pay for it.
        done = subprocess.run([sys.executable, "-c", "import sys, tocsin; sys.exit('grpc' in "
                               "sys.modules)"], env=os.environ, check=False)
        assert done.returncode == 0
