// What a client library takes from a queue by itself: the other side of queue_bench.py.
//
//   queue_reader redis SOCKET_PORT STREAM COUNT       XREAD from the beginning
//   queue_reader kafka BROKERS TOPIC PARTITIONS COUNT every partition from the beginning
//   queue_reader zeromq ENDPOINT COUNT                binds a PULL socket
//   queue_reader push ENDPOINT COUNT BYTES            connects a PUSH socket and sends
//
// Prints seconds from the first record to the last, and the processor's.

#include <fmt/format.h>
#include <hiredis/hiredis.h>
#include <librdkafka/rdkafka.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "broker/base/check.h"
#include "broker/base/system_clock.h"
#include "tests/bench/bench_process.h"

namespace tocsin::bench {
namespace {

struct Result {
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;
  Instant first, last;
};

void Count(Result& result, const Clock& clock, std::size_t bytes) {
  if (result.records == 0) result.first = clock.Monotonic();
  ++result.records;
  result.bytes += bytes;
}

Result ReadRedis(const Clock& clock, int port, const std::string& stream, std::uint64_t count) {
  Result result;
  redisContext* context = redisConnect("127.0.0.1", port);
  TOCSIN_CHECK(context != nullptr && context->err == 0, "no redis on port {}", port);
  std::string last = "0-0";
  while (result.records < count) {
    auto* reply = static_cast<redisReply*>(
        redisCommand(context, "XREAD COUNT 1024 STREAMS %s %s", stream.c_str(), last.c_str()));
    TOCSIN_CHECK(reply != nullptr && reply->type == REDIS_REPLY_ARRAY, "no more entries");
    const redisReply* entries = reply->element[0]->element[1];
    for (std::size_t i = 0; i < entries->elements; ++i) {
      const redisReply* entry = entries->element[i];
      last.assign(entry->element[0]->str, entry->element[0]->len);
      std::size_t bytes = 0;
      for (std::size_t j = 0; j < entry->element[1]->elements; ++j) {
        bytes += entry->element[1]->element[j]->len;
      }
      Count(result, clock, bytes);
    }
    freeReplyObject(reply);
  }
  result.last = clock.Monotonic();
  redisFree(context);
  return result;
}

Result ReadKafka(const Clock& clock, const std::string& brokers, const std::string& topic,
                 int partitions, std::uint64_t count) {
  char said[256];
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  rd_kafka_conf_set(conf, "bootstrap.servers", brokers.c_str(), said, sizeof(said));
  rd_kafka_t* handle = rd_kafka_new(RD_KAFKA_CONSUMER, conf, said, sizeof(said));
  rd_kafka_topic_t* opened = rd_kafka_topic_new(handle, topic.c_str(), nullptr);
  rd_kafka_queue_t* queue = rd_kafka_queue_new(handle);
  for (int i = 0; i < partitions; ++i) {
    rd_kafka_consume_start_queue(opened, i, RD_KAFKA_OFFSET_BEGINNING, queue);
  }
  Result result;
  std::vector<rd_kafka_message_t*> some(1024);
  while (result.records < count) {
    const ssize_t got = rd_kafka_consume_batch_queue(queue, 1000, some.data(), some.size());
    for (ssize_t i = 0; i < got; ++i) {
      rd_kafka_message_t* record = some[static_cast<std::size_t>(i)];
      if (record->err == RD_KAFKA_RESP_ERR_NO_ERROR) Count(result, clock, record->len);
      rd_kafka_message_destroy(record);
    }
  }
  result.last = clock.Monotonic();
  for (int i = 0; i < partitions; ++i) rd_kafka_consume_stop(opened, i);
  rd_kafka_queue_destroy(queue);
  rd_kafka_topic_destroy(opened);
  rd_kafka_destroy(handle);
  return result;
}

Result ReadZeromq(const Clock& clock, const std::string& endpoint, std::uint64_t count) {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::pull);
  socket.bind(endpoint);
  Result result;
  zmq::message_t part;
  while (result.records < count) {
    if (!socket.recv(part)) break;
    Count(result, clock, part.size());
  }
  result.last = clock.Monotonic();
  return result;
}

Result Push(const Clock& clock, const std::string& endpoint, std::uint64_t count,
            std::size_t bytes) {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::push);
  socket.connect(endpoint);
  const std::string data(bytes, 'x');
  Result result;
  while (result.records < count) {
    Count(result, clock, bytes);
    (void)socket.send(zmq::buffer(data));
  }
  result.last = clock.Monotonic();
  return result;
}

int Main(const std::vector<std::string>& words) {
  const SystemClock clock;
  const auto number = [&words](std::size_t at) {
    return std::strtoull(words.at(at).c_str(), nullptr, 10);
  };
  std::optional<Result> result;
  if (words.size() == 4 && words[0] == "redis") {
    result = ReadRedis(clock, static_cast<int>(number(1)), words[2], number(3));
  } else if (words.size() == 5 && words[0] == "kafka") {
    result = ReadKafka(clock, words[1], words[2], static_cast<int>(number(3)), number(4));
  } else if (words.size() == 3 && words[0] == "zeromq") {
    result = ReadZeromq(clock, words[1], number(2));
  } else if (words.size() == 4 && words[0] == "push") {
    result = Push(clock, words[1], number(2), number(3));
  }
  if (!result) {
    std::fputs("queue_reader redis|kafka|zeromq|push ...: see the head of its source\n", stderr);
    return 2;
  }
  const double seconds = std::chrono::duration<double>(result->last - result->first).count();
  std::puts(fmt::format("{{\"records\":{},\"bytes\":{},\"seconds\":{:.6f},\"cpu\":{:.3f}}}",
                        result->records, result->bytes, seconds, OwnCpuSeconds())
                .c_str());
  return 0;
}

}  // namespace
}  // namespace tocsin::bench

int main(int argc, char** argv) {
  return tocsin::bench::Main(std::vector<std::string>(argv + 1, argv + argc));
}
