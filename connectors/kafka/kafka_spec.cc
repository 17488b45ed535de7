#include "connectors/kafka/kafka_spec.h"

#include <fmt/format.h>

namespace tocsin {

absl::Status ValidateKafkaSettings(const std::map<std::string, std::string>& settings) {
  // What these say is decided by keys of ours, or by what was promised.
  constexpr std::string_view kOurs[] = {"auto.offset.reset",
                                        "bootstrap.servers",
                                        "enable.auto.commit",
                                        "enable.auto.offset.store",
                                        "enable.partition.eof",
                                        "group.id",
                                        "isolation.level",
                                        "metadata.broker.list",
                                        "partition.assignment.strategy",
                                        "sasl.mechanism",
                                        "sasl.mechanisms",
                                        "sasl.password",
                                        "sasl.username",
                                        "security.protocol",
                                        "ssl.key.password"};
  for (const auto& [name, value] : settings) {
    for (const std::string_view ours : kOurs) {
      if (name != ours) continue;
      return absl::InvalidArgumentError(
          fmt::format("`{}` cannot be set here: it follows from other keys of the source", name));
    }
  }
  return absl::OkStatus();
}

std::vector<std::string_view> KafkaTemplateNames() { return {"topic", "partition", "offset"}; }

}  // namespace tocsin
