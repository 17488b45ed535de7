// The C++ worker of the quickstart: charges orders, and says when the timer fired.

#include "sdk/cpp/worker.h"

#include <cstdio>
#include <string>

#include "nlohmann/json.hpp"

namespace {

using tocsin::sdk::Context;
using tocsin::sdk::Event;
using tocsin::sdk::Result;

Result Charge(const Event& event, Context& context) {
  const auto order = nlohmann::json::parse(event.data(), nullptr, /*allow_exceptions=*/false);
  if (!order.is_object() || !order.contains("order") || !order.contains("amount")) {
    return tocsin::sdk::Reject("data is not an order with an amount");
  }
  std::printf("charge: %s, %.2f, attempt %u\n", order["order"].get<std::string>().c_str(),
              order["amount"].get<double>(), context.attempt());
  std::fflush(stdout);
  return tocsin::sdk::Ack();
}

Result ShowTime(const Event& event, Context&) {
  std::printf("show-time: %s\n", event.time().c_str());
  std::fflush(stdout);
  return tocsin::sdk::Ack();
}

}  // namespace

int main() {
  tocsin::sdk::Worker worker("quickstart-cpp");
  worker.On("charge", Charge, {.concurrency = 8}).On("show-time", ShowTime);
  return worker.Run();
}
