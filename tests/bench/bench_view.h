// What a benchmark asks of a running broker, and what it attaches to it.
//
// Threading: one thread.

#pragma once

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "broker/base/clock.h"
#include "broker/base/thread_executor.h"
#include "sdk/cpp/worker.h"
#include "tocsin/v1/admin.grpc.pb.h"

namespace tocsin::bench {

// A channel that shares its connection with no other.
std::shared_ptr<grpc::Channel> NewPrivateChannel(const std::string& target);

class BrokerView {
 public:
  // `http_target` serves metrics; empty: not asked for.
  BrokerView(const std::string& grpc_target, std::string http_target);

  // Deliveries of the trigger that were acked so far. Dies with a message if one ended otherwise or
  // the broker does not know it.
  std::uint64_t Acked(const std::string& trigger);
  // The same of all triggers together.
  std::uint64_t AckedOfAll();
  std::size_t Workers();  // attached
  std::string Metrics() const;

 private:
  v1::ListTriggersResponse Triggers();

  const std::string http_;
  std::unique_ptr<v1::Admin::Stub> admin_;
};

// Of a text of metrics: the sum of a metric's samples.
double Metric(const std::string& text, const std::string& name);

// A worker that runs until it goes.
class RunningWorker {
 public:
  RunningWorker(sdk::WorkerOptions options, const Clock& clock,
                const std::function<void(sdk::Worker&)>& add);
  ~RunningWorker();

 private:
  sdk::Worker worker_;
  ThreadExecutor thread_;
};

// `count` workers that attach and do nothing more, each with a connection of its own or all with
// one. They are gone after `gone_after_ms` of the broker, for they send no heartbeat.
class IdleWorkers {
 public:
  IdleWorkers(const std::string& target, std::size_t count, bool shared);
  ~IdleWorkers();

 private:
  struct One;
  std::vector<std::unique_ptr<One>> all_;
};

}  // namespace tocsin::bench
