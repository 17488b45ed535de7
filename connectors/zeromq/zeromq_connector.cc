#include "connectors/zeromq/zeromq_connector.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>
#include <zmq.hpp>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "connectors/zeromq/zeromq_link.h"

namespace tocsin {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

constexpr std::string_view kDone = R"({"ok":true})";

// Names and values of a JSON object, as text; nullopt if it is none.
std::optional<std::vector<std::pair<std::string, std::string>>> ReadAttributes(
    std::string_view json) {
  JsonValue value;
  if (!JsonScanner(json).ReadDocument(value).ok() || value.kind != JsonKind::kObject) {
    return std::nullopt;
  }
  std::vector<std::pair<std::string, std::string>> out;
  for (JsonMember& member : JsonMembers(value)) {
    if (member.value.kind == JsonKind::kNull) continue;
    std::string text = member.value.kind == JsonKind::kString ? JsonString(member.value)
                                                              : std::string(member.value.raw);
    out.emplace_back(std::move(member.name), std::move(text));
  }
  return out;
}

class ZeromqConnector final : public BlockingConnector {
 public:
  ZeromqConnector(const ZeromqSpec& spec, RecordMapper mapper, Ports ports)
      : BlockingConnector(std::move(ports)), spec_(spec), mapper_(std::move(mapper)) {}
  ~ZeromqConnector() override { StopLane(); }

  // A client that got no answer sends again: its own id makes it once.
  LaneTraits traits() const override {
    return {.dedupe = spec_.socket == ZeromqSocket::kRep, .wants_settled = false};
  }

 protected:
  absl::Status ConnectNow(const LaneState& restored) override;
  absl::StatusOr<SourceBatch> PollNow(Instant until) override;
  absl::Status CommitNow(const SourcePosition& position) override;

 private:
  struct Waiting {
    std::uint64_t number = 0;
    std::vector<zmq::message_t> envelope;
    std::string answer;
  };

  std::size_t Add(std::vector<zmq::message_t>& parts, SourceBatch& batch);
  std::size_t AddRecord(const std::vector<std::string_view>& parts, SourceBatch& batch);
  void ShowLink();

  const ZeromqSpec spec_;
  const RecordMapper mapper_;
  std::unique_ptr<ZeromqLink> link_;
  std::string life_;  // makes ids unique across starts
  std::uint64_t count_ = 0;
  std::deque<Waiting> waiting_;  // clients that want an answer, in order
};

absl::Status ZeromqConnector::ConnectNow(const LaneState&) {
  // Clients whose batch was lost with the broker's failure will send again.
  waiting_.clear();
  if (life_.empty()) life_ = fmt::format("{:x}", clock().Wall().time_since_epoch().count());
  if (link_ == nullptr) {
    TOCSIN_ASSIGN_OR_RETURN(link_, ZeromqLink::Open(spec_));
  }
  ShowLink();
  return absl::OkStatus();
}

void ZeromqConnector::ShowLink() {
  Report([this](LaneReport& report) {
    report.note = link_->note();
    report.position = fmt::format("{} taken", count_);
  });
}

std::size_t ZeromqConnector::AddRecord(const std::vector<std::string_view>& parts,
                                       SourceBatch& batch) {
  const std::string id = fmt::format("{}-{}", life_, count_);
  const std::string where = fmt::format("message {}", id);
  const absl::StatusOr<ZeromqParts> split = SplitParts(spec_.parts, parts);
  const auto refuse = [&](std::string_view why) {
    std::string bytes;
    for (const std::string_view part : parts) bytes.append(part);
    if (bytes.size() > kUndecodableBytesMax) bytes.resize(kUndecodableBytesMax);
    batch.undecodable.push_back({std::move(bytes), fmt::format("{}: {}", where, why)});
    return batch.undecodable.back().bytes.size();
  };
  if (!split.ok()) return refuse(MessageOf(split.status()));
  std::vector<std::pair<std::string, std::string>> attributes;
  if (split->attributes) {
    auto read = ReadAttributes(*split->attributes);
    if (!read) return refuse("its attributes are no JSON object");
    attributes = std::move(*read);
  }
  std::vector<Pair> headers(attributes.begin(), attributes.end());
  const std::string_view topic = split->topic.value_or("");
  const std::array<Pair, 1> names = {Pair{"topic", topic}};
  OutsideRecord record;
  record.id = id;
  record.what = "message";
  record.subject = topic;
  record.where = where;
  record.key = split->key;
  record.headers = headers;
  record.names = std::span(names).first(split->topic ? 1 : 0);
  record.value = split->data;
  record.time = clock().Wall();
  return mapper_.MapInto(record, batch);
}

std::size_t ZeromqConnector::Add(std::vector<zmq::message_t>& parts, SourceBatch& batch) {
  Waiting waiting;
  waiting.number = ++count_;
  std::size_t first = 0;
  if (spec_.socket == ZeromqSocket::kRep) {
    // Before the empty part is who sent it.
    while (first < parts.size() && !parts[first].empty()) ++first;
    if (first == parts.size()) return 0;  // no client of `rep`: nothing could be answered
    ++first;
    for (std::size_t i = 0; i < first; ++i) waiting.envelope.push_back(std::move(parts[i]));
  }
  std::vector<std::string_view> views;
  for (std::size_t i = first; i < parts.size(); ++i) views.push_back(parts[i].to_string_view());
  const std::size_t refused = batch.undecodable.size();
  const std::size_t bytes = AddRecord(views, batch);
  if (spec_.socket != ZeromqSocket::kRep) return bytes;
  waiting.answer = kDone;
  if (batch.undecodable.size() > refused) {
    waiting.answer = R"({"ok":false,"error":)";
    AppendJsonString(waiting.answer, batch.undecodable.back().reason);
    waiting.answer += '}';
  }
  waiting_.push_back(std::move(waiting));
  return bytes;
}

absl::StatusOr<SourceBatch> ZeromqConnector::PollNow(Instant until) {
  SourceBatch batch;
  std::size_t bytes = 0;
  std::vector<zmq::message_t> parts;
  while (!cancelled()) {
    while (batch.events.size() + batch.undecodable.size() < kBatchEventsMax &&
           bytes < kBatchBytesMax && link_->Take(parts)) {
      bytes += Add(parts, batch);
    }
    batch.position.value = fmt::format("live {}-{}", life_, count_);
    if (!batch.empty()) {
      ShowLink();
      return batch;
    }
    if (clock().Monotonic() >= until) return batch;
    const absl::StatusOr<bool> readable = link_->Wait(MillisecondsUntil(until), wake_fd(), [this] {
      Woken();
      return !cancelled();
    });
    ShowLink();
    TOCSIN_RETURN_IF_ERROR(readable.status());
  }
  return absl::CancelledError("cancelled");
}

absl::Status ZeromqConnector::CommitNow(const SourcePosition& position) {
  if (spec_.socket != ZeromqSocket::kRep) return absl::OkStatus();
  const std::string prefix = fmt::format("live {}-", life_);
  if (!position.value.starts_with(prefix)) return absl::OkStatus();
  const std::uint64_t number = std::strtoull(position.value.c_str() + prefix.size(), nullptr, 10);
  while (!waiting_.empty() && waiting_.front().number <= number) {
    link_->Answer(waiting_.front().envelope, waiting_.front().answer);
    waiting_.pop_front();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ZeromqParts> SplitParts(const std::vector<ZeromqPart>& wanted,
                                       const std::vector<std::string_view>& parts) {
  using enum ZeromqPart;
  std::vector<ZeromqPart> by_count = wanted;
  if (wanted.empty()) {
    if (parts.size() == 1) by_count = {kData};
    if (parts.size() == 2) by_count = {kTopic, kData};
    if (parts.size() == 3) by_count = {kTopic, kAttributes, kData};
  }
  if (parts.empty() || parts.size() != by_count.size()) {
    return absl::InvalidArgumentError(fmt::format("it has {} parts, not {}", parts.size(),
                                                  wanted.empty()
                                                      ? "one to three (`parts` says what they are)"
                                                      : std::to_string(wanted.size())));
  }
  ZeromqParts out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    switch (by_count[i]) {
      case kTopic:
        out.topic = parts[i];
        break;
      case kKey:
        out.key = parts[i];
        break;
      case kAttributes:
        out.attributes = parts[i];
        break;
      case kData:
        out.data = parts[i];
        break;
    }
  }
  return out;
}

absl::StatusOr<std::unique_ptr<SourceConnector>> MakeZeromqConnector(
    const ZeromqSpec& spec, BlockingConnector::Ports ports) {
  TOCSIN_ASSIGN_OR_RETURN(
      RecordMapper mapper,
      RecordMapper::Make(spec.name, "zeromq", spec.envelope, spec.event, ZeromqTemplateNames()));
  return std::make_unique<ZeromqConnector>(spec, std::move(mapper), std::move(ports));
}

absl::StatusOr<std::string> CheckZeromq(const ZeromqSpec& spec, const Clock& clock) {
  TOCSIN_ASSIGN_OR_RETURN(const std::unique_ptr<ZeromqLink> link, ZeromqLink::Open(spec));
  if (spec.connect.empty()) {
    return fmt::format("{} can be bound", fmt::join(spec.bind, ", "));
  }
  const Instant until = clock.Monotonic() + std::chrono::seconds(3);
  while (link->peers() < static_cast<int>(spec.connect.size()) && clock.Monotonic() < until) {
    TOCSIN_RETURN_IF_ERROR(link->Wait(50, -1, [] { return true; }).status());
  }
  if (link->peers() < static_cast<int>(spec.connect.size())) {
    return absl::UnavailableError(link->note());
  }
  return fmt::format("connected to {}", fmt::join(spec.connect, ", "));
}

}  // namespace tocsin
