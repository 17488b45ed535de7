"""Batch functions: what makes a batch, and an answer for each of its events."""

import pytest

from tocsin import BatchResult, Drop, Reject


class TestBatches:
    def start(self, running, handler, **options):
        worker = running.worker()
        worker.batch("index", **{"max_events": 4, "max_wait": "10ms", **options})(handler)
        return running.start(worker)

    def outcomes(self, session, count):
        answers = {}
        while len(answers) < count:
            frame = session.next_frame()
            for one in frame.answers.acked:
                answers.update({handle: "ack" for handle in range(one.first, one.last + 1)})
            for other in frame.answers.others:
                answers[other.handle] = other
        return answers

    def test_gets_what_arrived_and_answers_one_by_one(self, running):
        sizes = []

        def index(events, contexts):
            sizes.append(len(events))
            assert [c.trigger for c in contexts] == ["on-order"] * len(events)
            if len(events) == 1:
                return None
            contexts[3].emit(type="t")
            return [None, Reject("odd one"), ValueError("bad"), None]

        session = self.start(running, index, max_wait="30ms")
        session.deliver("index", 1, 4)
        answers = self.outcomes(session, 4)
        assert answers[1] == "ack"
        assert answers[2].reject.reason == "odd one"
        assert (answers[3].retry.code, answers[3].retry.message) == ("ValueError", "bad")
        assert answers[4].HasField("ack") and len(answers[4].emitted) == 1
        session.deliver("index", 5, 1)  # never full: goes after max_wait
        assert session.acked(1) == [5]
        assert sizes == [4, 1]

    def test_a_batch_result_names_what_failed(self, running):
        def index(events):
            result = BatchResult(failed=[events[0]])
            result.fail(events[2], Drop("old"))
            return result

        answers = self.outcomes_of(running, index)
        assert answers[1].retry.code == "batch_item_failed"
        assert answers[2] == "ack"
        assert answers[3].drop.reason == "old"

    def test_batch_item_failures_name_ids_or_keys(self, running):
        def index(events, contexts):
            return {"batchItemFailures": [{"itemIdentifier": events[1].id},
                                          {"itemIdentifier": contexts[2].idempotency_key}]}

        answers = self.outcomes_of(running, index)
        assert answers[1] == "ack"
        assert answers[2].retry.code == answers[3].retry.code == "batch_item_failed"

    @pytest.mark.parametrize("returned, words", [
        ({"batchItemFailures": [{"itemIdentifier": "unknown"}]}, "neither the id"),
        ({"failures": []}, "batchItemFailures"),
        ([None] * 4, "4 outcomes for a batch of 3"),
        ([1, 2, 3], "no outcome of an event"),
        ("done", "returned str"),
    ])
    def test_a_return_of_the_wrong_shape_acks_nothing(self, running, returned, words):
        answers = self.outcomes_of(running, lambda events: returned)
        assert all(words in answer.retry.message for answer in answers.values())

    def test_what_is_missing_in_the_list_is_retried_and_empty_failures_ack(self, running):
        answers = self.outcomes_of(running, lambda events: [None])
        assert answers[1] == "ack"
        assert answers[2].retry.code == answers[3].retry.code == "no_result"

    def test_what_an_async_batch_raises_holds_for_all(self, running):
        async def index(events):
            raise Reject("all of them")

        answers = self.outcomes_of(running, index)
        assert [a.reject.reason for a in answers.values()] == ["all of them"] * 3

    def outcomes_of(self, running, handler):
        session = self.start(running, handler, max_events=3)
        session.deliver("index", 1, 3)
        return self.outcomes(session, 3)
