// tocsin publish.
//
// Batches go one after the other, each answered before the next: order is kept without a protocol
// for it, and what was refused for want of room is sent again before anything later.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "broker/base/event.h"
#include "broker/base/event_json.h"
#include "broker/base/random.h"
#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/time_text.h"
#include "broker/cli/commands.h"
#include "broker/cli/event_input.h"
#include "broker/cli/input.h"
#include "broker/cli/session.h"

namespace tocsin::cli {
namespace {

constexpr int kBatchEvents = 512;
constexpr std::size_t kBatchBytes = 1024 * 1024;
constexpr std::size_t kEventBytesMax = 3 * 1024 * 1024;       // the most a broker may be set to
constexpr std::size_t kEventJsonBytesMax = 16 * 1024 * 1024;  // escapes and base64 need more
constexpr std::int64_t kRetryMsMin = 20;
constexpr std::int64_t kRetryMsMax = 5'000;
// Printed one by one up to here; then only the sums.
constexpr std::uint64_t kAcceptedLinesMax = 20;

struct Flags : SessionFlags {
  EventParts parts;
  std::string data;
  std::string json;
  std::string wait;
  std::string deliver_at;
  std::string deliver_in;
};

EventLimits Limits() {
  EventLimits limits;
  limits.event_bytes_max = kEventBytesMax;
  return limits;
}

// Sends events in order and reports what became of each.
class Sender {
 public:
  // `wait_ms`: how long to wait for room; none: as long as it takes.
  Sender(Console& console, const OutputFlags& output, Client& client,
         std::optional<std::int64_t> wait_ms)
      : console_(console), output_(output), client_(client), wait_ms_(wait_ms), began_ms_(NowMs()) {
    if (output.json()) json_.Object().Key("events").Array();
  }

  void SetInput(std::uint64_t total_bytes) { total_bytes_ = total_bytes; }

  // `bytes_read`: of the input up to the end of this event.
  absl::Status Add(Event event, std::uint64_t bytes_read) {
    batch_bytes_ += event.bytes().size();
    bytes_read_ = bytes_read;
    ids_.emplace_back(event.View().id);
    // Cannot fail: the event was parsed before.
    batch_.add_events()->ParseFromString(event.bytes());
    if (batch_.events_size() < kBatchEvents && batch_bytes_ < kBatchBytes) return absl::OkStatus();
    return Flush();
  }

  absl::Status Flush() {
    std::int64_t retry_ms = kRetryMsMin;
    std::optional<std::int64_t> full_since_ms;
    while (batch_.events_size() > 0) {
      if (Interrupted()) return absl::CancelledError("interrupted");
      batch_.set_sequence(++sequence_);
      const absl::StatusOr<v1::PublishResponse> sent = client_.Publish(batch_);
      if (absl::IsDeadlineExceeded(sent.status())) {
        return absl::DeadlineExceededError(fmt::format(
            "{} It may have taken these events all the same: sent again with the same ids they are "
            "stored once.",
            MessageOf(sent.status())));
      }
      if (!sent.ok()) return sent.status();
      const v1::PublishResponse& answer = *sent;
      const std::int64_t hint_ms = Take(answer);
      batch_.set_from_refused(batch_.events_size() > 0);
      ShowProgress();
      if (batch_.events_size() == 0) break;
      if (!full_since_ms) full_since_ms = NowMs();
      if (wait_ms_ && NowMs() - *full_since_ms >= *wait_ms_) {
        return absl::ResourceExhaustedError(
            fmt::format("the broker has no room ({}): {} events were not stored", Clean(no_room_),
                        batch_.events_size()));
      }
      if (!waited_) {
        waited_ = true;
        console_.Note(
            fmt::format("the broker has no room at the moment ({}); waiting and trying again",
                        Clean(no_room_)));
      }
      WaitMs(hint_ms > 0 ? std::min(hint_ms, kRetryMsMax) : retry_ms);
      retry_ms = std::min(retry_ms * 2, kRetryMsMax);
    }
    batch_.set_from_refused(false);
    batch_bytes_ = 0;
    return absl::OkStatus();
  }

  int Finish(const absl::Status& status) {
    console_.ClearProgress();
    if (output_.json()) {
      json_.End()
          .Field("accepted", accepted_)
          .Field("duplicates", duplicates_)
          .Field("refused", refused_)
          .Key("durability");
      if (durability_.empty()) {
        json_.Null();
      } else {
        json_.Value(durability_);
      }
      json_.End();
      console_.Out(json_);
    } else if (accepted_ > kAcceptedLinesMax || (accepted_ == 0 && refused_ == 0 && status.ok())) {
      console_.Out(
          fmt::format("{} events accepted{}{}\n", accepted_,
                      duplicates_ > 0 ? fmt::format(", {} of them duplicates", duplicates_) : "",
                      durability_.empty() ? "" : fmt::format(" ({})", durability_)));
    }
    if (!status.ok()) {
      const bool one_was_first = accepted_ + refused_ == 0;
      return console_.Fail(one_was_first ? std::string(MessageOf(status))
                                         : fmt::format("{} ({} events were accepted before)",
                                                       MessageOf(status), accepted_));
    }
    if (refused_ == 0) return kExitOk;
    return console_.Fail(fmt::format("{} of {} events were refused for the reasons above", refused_,
                                     refused_ + accepted_));
  }

 private:
  // Books the answer; what is to be sent again stays in the batch. Gives the broker's hint.
  std::int64_t Take(const v1::PublishResponse& answer) {
    durability_ = answer.durability() == v1::DURABILITY_DURABLE   ? "durable"
                  : answer.durability() == v1::DURABILITY_WRITTEN ? "written"
                                                                  : durability_;
    std::vector<const v1::EventResult*> results(static_cast<std::size_t>(batch_.events_size()));
    for (const v1::EventResult& result : answer.exceptions()) {
      if (result.index() < results.size()) results[result.index()] = &result;
    }
    std::int64_t hint_ms = 0;
    v1::PublishRequest again;
    std::vector<std::string> again_ids;
    for (std::size_t i = 0; i < results.size(); ++i) {
      const v1::EventResult* result = results[i];
      const int index = static_cast<int>(i);
      if (result == nullptr) {
        ++accepted_;
        const bool known = index < answer.refs_size();
        Accepted(ids_[i], known ? &answer.refs(index) : nullptr, false, false);
      } else if (result->duplicate() || result->delayed()) {
        ++accepted_;
        duplicates_ += result->duplicate() ? 1 : 0;
        Accepted(ids_[i], result->has_first() ? &result->first() : nullptr, result->duplicate(),
                 result->delayed());
      } else if (result->code() == static_cast<int>(absl::StatusCode::kResourceExhausted)) {
        hint_ms = std::max<std::int64_t>(hint_ms, result->retry_after_ms());
        no_room_ = result->error();
        again.add_events()->Swap(batch_.mutable_events(index));
        again_ids.push_back(std::move(ids_[i]));
      } else {
        ++refused_;
        Refused(ids_[i], result->error());
      }
    }
    batch_.mutable_events()->Swap(again.mutable_events());
    ids_ = std::move(again_ids);
    return hint_ms;
  }

  void Accepted(const std::string& id, const v1::EventRef* ref, bool duplicate, bool delayed) {
    if (output_.json()) {
      json_.Object().Field("id", id);
      if (ref != nullptr) {
        json_.Field("partition", ref->partition()).Field("offset", ref->offset());
      }
      json_.Field("duplicate", duplicate);
      if (delayed) json_.Field("delayed", true);
      json_.End();
      console_.Out(json_);
    } else if (accepted_ <= kAcceptedLinesMax) {
      console_.Out(fmt::format("{}  {}{}{}\n", ref == nullptr ? "-" : RefText(*ref), Clean(id),
                               duplicate ? "  duplicate" : "", delayed ? "  delayed" : ""));
      if (accepted_ == kAcceptedLinesMax) console_.Flush();
    }
  }

  void Refused(const std::string& id, const std::string& error) {
    if (output_.json()) {
      json_.Object().Field("id", id).Field("error", error).End();
      console_.Out(json_);
    }
    console_.Note(fmt::format("event {}: {}", Clean(id), Clean(error)));
  }

  // By bytes where the size of the input is known, else by count.
  void ShowProgress() {
    const std::uint64_t events = accepted_ + refused_;
    if (events < kBatchEvents) return;
    std::uint64_t total = 0;
    if (total_bytes_ > 0 && bytes_read_ > 0) {
      const double per_byte = static_cast<double>(events) / static_cast<double>(bytes_read_);
      total = std::max(events,
                       static_cast<std::uint64_t>(static_cast<double>(total_bytes_) * per_byte));
    }
    console_.ShowProgress({events, total, NowMs() - began_ms_, "events"});
  }

  Console& console_;
  const OutputFlags& output_;
  Client& client_;
  const std::optional<std::int64_t> wait_ms_;
  std::int64_t began_ms_;

  v1::PublishRequest batch_;
  std::vector<std::string> ids_;  // of the batch's events
  std::size_t batch_bytes_ = 0;
  std::uint64_t sequence_ = 0;
  std::string no_room_;  // in the broker's words
  bool waited_ = false;

  JsonWriter json_;
  std::uint64_t accepted_ = 0;
  std::uint64_t duplicates_ = 0;
  std::uint64_t refused_ = 0;
  std::string_view durability_;
  std::uint64_t total_bytes_ = 0;
  std::uint64_t bytes_read_ = 0;
};

absl::Status SendStream(Sender& sender, InputFile& input) {
  sender.SetInput(input.size());
  ObjectSplitter splitter(kEventJsonBytesMax);
  ObjectSplitter::Object object;
  std::uint64_t bytes_read = 0;
  std::uint64_t number = 0;
  std::string piece;
  while (true) {
    piece.clear();
    TOCSIN_ASSIGN_OR_RETURN(const std::size_t n, input.Read(piece));
    if (Interrupted()) return absl::CancelledError("interrupted");
    if (n == 0) break;
    bytes_read += n;
    splitter.Feed(piece);
    while (true) {
      const auto more = splitter.Next(object);
      if (!more.ok()) return Annotate(more.status(), input.name());
      if (!*more) break;
      ++number;
      auto event = EventFromJson(object.text, Limits());
      if (!event.ok()) {
        return Annotate(event.status(), fmt::format("{}: event {}, which begins at line {}",
                                                    input.name(), number, object.line));
      }
      TOCSIN_RETURN_IF_ERROR(sender.Add(std::move(*event), bytes_read));
    }
    // What comes from a pipe may come slowly: it is sent as it comes.
    if (input.size() == 0) TOCSIN_RETURN_IF_ERROR(sender.Flush());
  }
  if (const absl::Status end = splitter.End(); !end.ok()) return Annotate(end, input.name());
  return sender.Flush();
}

int PublishStream(Console& console, const Flags& flags, std::optional<std::int64_t> wait_ms) {
  auto input = InputFile::Open(flags.json);
  if (!input.ok()) return console.Fail(input.status());
  return WithClient(console, flags.connection, [&](Client& client) {
    CatchInterrupts();
    Sender sender(console, flags.output, client, wait_ms);
    absl::Status status = SendStream(sender, *input);
    // What was read before a bad event is good.
    if (absl::IsInvalidArgument(status) || absl::IsOutOfRange(status)) {
      if (const absl::Status flushed = sender.Flush(); !flushed.ok()) status = flushed;
    }
    return sender.Finish(status);
  });
}

int PublishOne(Console& console, const Flags& flags, std::optional<std::int64_t> wait_ms) {
  EventParts parts = flags.parts;
  if (parts.type.empty() || parts.source.empty()) {
    return console.FailUsage("publish", "--type and --source are needed, or --json FILE");
  }
  SeededRandom random(SystemSeed());
  if (parts.id.empty()) parts.id = UuidText(random.Next() ^ SystemSeed(), random.Next());
  if (parts.time.empty()) parts.time = FormatRfc3339(SystemClock().Wall());
  if (!flags.deliver_at.empty()) {
    parts.attributes.push_back("tocsindeliverat=" + flags.deliver_at);
  }
  if (!flags.deliver_in.empty()) {
    parts.attributes.push_back("tocsindeliverin=" + flags.deliver_in);
  }
  parts.has_data = !flags.data.empty();
  parts.data = flags.data;
  if (flags.data == "-" || flags.data.rfind('@', 0) == 0) {
    auto data = ReadWhole(flags.data == "-" ? "-" : flags.data.substr(1), kEventBytesMax);
    if (!data.ok()) return console.Fail(Annotate(data.status(), "--data"));
    parts.data = std::move(*data);
  }
  auto event = BuildEvent(parts, Limits());
  if (!event.ok()) return console.FailUsage("publish", MessageOf(event.status()));
  return WithClient(console, flags.connection, [&](Client& client) {
    CatchInterrupts();
    Sender sender(console, flags.output, client, wait_ms);
    absl::Status status = sender.Add(std::move(*event), 0);
    if (status.ok()) status = sender.Flush();
    return sender.Finish(status);
  });
}

int Publish(Console& console, const Flags& flags) {
  std::optional<std::int64_t> wait_ms;
  if (!flags.wait.empty()) {
    const auto wait = ParseDuration(flags.wait);
    if (!wait.ok())
      return console.FailUsage("publish", MessageOf(Annotate(wait.status(), "--wait")));
    wait_ms = std::chrono::duration_cast<std::chrono::milliseconds>(*wait).count();
  }
  if (flags.json.empty()) return PublishOne(console, flags, wait_ms);
  const EventParts& parts = flags.parts;
  if (!parts.id.empty() || !parts.source.empty() || !parts.type.empty() || !parts.subject.empty() ||
      !parts.key.empty() || !parts.time.empty() || !parts.content_type.empty() ||
      !parts.attributes.empty() || !flags.data.empty() || !flags.deliver_at.empty() ||
      !flags.deliver_in.empty()) {
    return console.FailUsage("publish",
                             "--json brings whole events: no other option of an event with it");
  }
  return PublishStream(console, flags, wait_ms);
}

}  // namespace

void AddPublish(Command& root) {
  Command& command =
      root.Add("publish", "publish an event, or the events of a JSON file",
               "tocsin publish --type order.paid --source /shop --key 17 --data '{\"total\": 12}'\n"
               "tocsin publish --json events.ndjson");
  auto flags = std::make_shared<Flags>();
  EventParts& parts = flags->parts;
  command.options = {
      {"--type", &parts.type, "TYPE", "what happened, e.g. order.paid"},
      {"--source", &parts.source, "URI", "where it happened, e.g. /shop"},
      {"--id", &parts.id, "ID", "with the source, the event's identity (default: a random one)"},
      {"--subject", &parts.subject, "TEXT", "what it is about"},
      {"--key", &parts.key, "KEY", "events of one key are delivered in order (partitionkey)"},
      {"--time", &parts.time, "TIME", "when it happened, RFC 3339 (default: now)"},
      {"--data", &flags->data, "JSON|@FILE|-", "the payload, a file with it, or standard input"},
      {"--content-type", &parts.content_type, "TYPE", "of the payload (default: application/json)"},
      {"--attribute", &parts.attributes, "NAME=VALUE", "another attribute; may be given again"},
      {"--json", &flags->json, "FILE|-",
       "events as CloudEvents JSON: one, an array, or one a line; - is standard input"},
  };
  command.options.back().is_file = true;
  command.options.push_back({"--deliver-at", &flags->deliver_at, "TIME",
                             "the broker keeps it and delivers it then, RFC 3339"});
  command.options.push_back({"--deliver-in", &flags->deliver_in, "DURATION",
                             "the broker keeps it so long, then delivers it"});
  command.options.push_back(
      {"--wait", &flags->wait, "DURATION",
       "how long to wait for room in a full broker (default: as long as it takes)"});
  AddSession(command, *flags);
  command.run = [flags](Console& console) { return Publish(console, *flags); };
}

}  // namespace tocsin::cli
