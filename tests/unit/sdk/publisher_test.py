"""The publisher against a broker that refuses, repeats and goes away."""

import asyncio
import queue
import threading

import grpc
import pytest

from fake_broker import PATIENCE
from tocsin import CloudEvent, Publisher, PublishError, PublishResult


def numbered(number):
    return CloudEvent("order.paid", "/shop", id=str(number))


def expected(count):
    return [str(number) for number in range(count)]


class Store:
    """Keeps what it accepts, once per id, in order."""

    def __init__(self):
        self.ids = []
        self.known = set()
        self.requests = []

    def accept(self, request, response):
        self.requests.append(request)
        response.accepted = len(request.events)
        for i, event in enumerate(request.events):
            if event.id in self.known:
                one = response.exceptions.add(index=i, duplicate=True)
                one.first.partition, one.first.offset = 2, 9
            else:
                self.known.add(event.id)
                self.ids.append(event.id)


@pytest.fixture
def store(broker):
    one = Store()
    broker.on_publish = one.accept
    return one


@pytest.fixture
def publisher(broker):
    made = []

    def make(**options):
        one = broker.connect(Publisher(token="secret", **options))
        made.append(one)
        return one

    yield make
    for one in made:
        one.close(0.01)


class TestPublisher:
    def test_batches_by_itself_and_keeps_the_order(self, publisher, store, broker):
        one = publisher()
        futures = [one.publish(numbered(number)) for number in range(5000)]
        assert one.flush(PATIENCE)
        assert all(future.result(0) == PublishResult(durable=True) for future in futures)
        assert store.ids == expected(5000)
        assert len(store.requests) < 2500
        assert broker.publish_metadata.get(timeout=PATIENCE)["authorization"] == "Bearer secret"

    def test_a_duplicate_is_a_success_and_says_where_its_first_is(self, publisher, store):
        one = publisher()
        assert one.publish_and_wait(numbered(1), PATIENCE).duplicate is False
        again = one.publish_and_wait(numbered(1), "20s")
        assert (again.duplicate, again.partition, again.offset) == (True, 2, 9)

    def test_a_refused_event_fails_alone_with_the_brokers_words(self, publisher, broker):
        def on_publish(request, response):
            for i, event in enumerate(request.events):
                if event.id == "1":
                    response.exceptions.add(index=i, code=3, error="the type is empty")

        broker.on_publish = on_publish
        one = publisher()
        results = one.publish_batch([numbered(0), numbered(1), numbered(2)])
        assert [result.error is None for result in results] == [True, False, True]
        assert results[1].error.code == "INVALID_ARGUMENT"
        assert results[1].error.message == "the type is empty"
        with pytest.raises(PublishError, match="INVALID_ARGUMENT: the type is empty"):
            one.publish_and_wait(numbered(1), PATIENCE)

    # The danger: what was sent behind a refused batch overtakes it, or goes on being sent and keeps
    # the refused from its turn.
    def test_refusals_for_want_of_room_are_sent_again_in_order(self, publisher, broker, store):
        state = {"refusing": False, "left": 3, "received": 0}
        resent, refused = [], []

        def on_publish(request, response):
            if request.from_refused:
                resent.append(request.sequence)
                state["refusing"] = False
            state["received"] += 1
            if not state["refusing"] and state["left"] > 0 and state["received"] % 4 == 0:
                state["refusing"] = True
                state["left"] -= 1
            if state["refusing"]:
                refused.append(request.sequence)
                for i in range(len(request.events)):
                    response.exceptions.add(index=i, code=8, retry_after_ms=1)
                return
            store.accept(request, response)

        broker.on_publish = on_publish
        one = publisher(batch_events_max=50, batches_in_flight_max=4)
        for number in range(3000):
            one.publish(numbered(number))
        assert one.flush(PATIENCE)
        assert state["left"] == 0
        assert len(refused) <= 3 * 4
        assert len(resent) == 3
        assert store.ids == expected(3000)

    # The danger: an answer is lost with the connection, and the event is stored twice or never.
    def test_lost_connections_lose_nothing_and_repeat_nothing(self, publisher, broker, store):
        received = []

        def on_publish(request, response):
            store.accept(request, response)
            received.append(1)
            return len(received) % 5 != 0  # stored, but the stream ends without the answer

        broker.on_publish = on_publish
        one = publisher(batch_events_max=40)
        futures = [one.publish(numbered(number)) for number in range(2000)]
        assert one.flush(PATIENCE)
        assert all(future.exception(0) is None for future in futures)
        assert store.ids == expected(2000)

    def test_a_request_that_is_none_fails_what_was_sent_with_it(self, publisher, broker, store):
        def on_publish(request, response):
            if any(event.id == "bad" for event in request.events):
                return grpc.StatusCode.INVALID_ARGUMENT, "not a PublishRequest"
            return store.accept(request, response)

        broker.on_publish = on_publish
        one = publisher()
        with pytest.raises(PublishError, match="not a PublishRequest"):
            one.publish_and_wait(numbered("bad"), PATIENCE)
        assert one.publish_and_wait(numbered("good"), PATIENCE).durable

    def test_a_broker_that_does_not_take_us_fails_everything(self, publisher, broker, store):
        broker.on_publish = lambda *_: (grpc.StatusCode.UNAUTHENTICATED, "no such token")
        one = publisher(batch_events_max=1)
        results = one.publish_batch([numbered(number) for number in range(5)])
        assert {result.error.code for result in results} == {"UNAUTHENTICATED"}
        broker.on_publish = store.accept
        assert one.publish_and_wait(numbered(5), PATIENCE).durable

    def test_an_answer_that_fits_nothing_ends_the_connection(self, publisher, broker, store):
        sequences = iter([77])

        def on_publish(request, response):
            store.accept(request, response)
            response.sequence = next(sequences, request.sequence)

        broker.on_publish = on_publish
        assert publisher().publish_and_wait(numbered(1), PATIENCE).duplicate

    def test_positions_come_when_asked_for(self, publisher, broker):
        def on_publish(request, response):
            for _ in request.events:
                response.refs.add(partition=3, offset=40)

        broker.on_publish = on_publish
        result = publisher(positions=True).publish_and_wait(numbered(1), PATIENCE)
        assert (result.partition, result.offset) == (3, 40)
        assert broker.publish_metadata.get(timeout=PATIENCE)["tocsin-refs"] == "1"

    def test_close_answers_what_the_broker_does_not(self, publisher, broker):
        broker.stop()
        one = publisher()
        waiting = one.publish(numbered(1))
        one.close(0.01)
        for future in (waiting, one.publish(numbered(2))):
            with pytest.raises(PublishError) as caught:
                future.result(PATIENCE)
            assert caught.value.code == "CANCELLED"

    def test_close_does_not_wait_for_a_broker_that_keeps_its_answers(self, publisher, broker):
        asked, answer = queue.Queue(), threading.Event()

        def on_publish(request, response):
            asked.put(1)
            answer.wait(PATIENCE)

        broker.on_publish = on_publish
        one = publisher()
        future = one.publish(numbered(1))
        asked.get(timeout=PATIENCE)
        one.close(0.01)
        assert future.exception(PATIENCE).code == "CANCELLED"
        answer.set()

    def test_with_flushes(self, publisher, store):
        with publisher() as one:
            for number in range(100):
                one.publish(numbered(number))
        assert store.ids == expected(100)


class TestBackpressure:
    @pytest.fixture
    def held(self, broker, store):
        """The broker answers when `go` is set."""
        go = threading.Event()

        def on_publish(request, response):
            go.wait(PATIENCE)
            store.accept(request, response)

        broker.on_publish = on_publish
        yield go
        go.set()

    @pytest.mark.parametrize("limit", [{"queue_events_max": 10}, {"queue_bytes_max": 300}])
    def test_publish_waits_while_the_queue_is_full(self, publisher, store, held, limit):
        one = publisher(**limit)
        published = queue.Queue()

        def work():
            for number in range(100):
                one.publish(numbered(number))
                published.put(number)

        threading.Thread(target=work, daemon=True).start()
        count = 10 if "queue_events_max" in limit else 300 // len(numbered(1).to_protobuf())
        for _ in range(count):
            published.get(timeout=PATIENCE)
        assert not one.flush(0)
        assert published.empty()
        held.set()
        for _ in range(100 - count):
            published.get(timeout=PATIENCE)
        assert one.flush(PATIENCE)
        assert store.ids == expected(100)

    def test_an_event_larger_than_the_queue_still_goes_alone(self, publisher, store):
        one = publisher(queue_bytes_max=100, batch_bytes_max=100)
        one.publish(CloudEvent("t", "/s", b"x" * 5000, id="0"))
        one.publish(CloudEvent("t", "/s", b"x" * 5000, id="1"))
        assert one.flush(PATIENCE)
        assert [len(request.events) for request in store.requests] == [1, 1]

    # The danger: a callback that publishes waits for room that only its own thread can make.
    def test_callbacks_may_publish_into_a_full_queue(self, publisher, store):
        one = publisher(queue_events_max=1)
        done = queue.Queue()

        def again(future):
            future.result()
            for number in range(1, 4):
                one.publish(numbered(number)).add_done_callback(done.put)
            with pytest.raises(RuntimeError, match="wait for itself"):
                one.flush()

        one.publish(numbered(0)).add_done_callback(again)
        for _ in range(3):
            assert done.get(timeout=PATIENCE).exception() is None
        assert store.ids == expected(4)

    def test_async_publishes_wait_without_holding_up_the_loop(self, publisher, store, held):
        one = publisher(queue_events_max=3)

        async def main():
            pending = [asyncio.ensure_future(one.publish_async(numbered(number)))
                       for number in range(10)]
            await asyncio.sleep(0)
            held.set()  # reached although the queue is full
            return await asyncio.wait_for(asyncio.gather(*pending), PATIENCE)

        results = asyncio.run(main())
        assert all(result.durable for result in results)
        assert sorted(store.ids) == expected(10)

    def test_an_answer_that_does_not_come_in_time_is_a_timeout(self, publisher, held):
        with pytest.raises(TimeoutError):
            publisher().publish_and_wait(numbered(1), 0.01)
