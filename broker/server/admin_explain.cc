#include "broker/server/admin_explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/event.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/routing/route_table.h"
#include "broker/server/grpc_auth.h"
#include "broker/server/recent_refusals.h"

namespace tocsin {
namespace {

constexpr std::size_t kPageEvents = 1024;
constexpr std::size_t kPageBytes = 512 * 1024;
constexpr std::size_t kRefusalsShown = 20;
constexpr std::size_t kPlacesMax = 64;
constexpr auto kLookBack = std::chrono::hours(1);

std::int64_t Micros(WallTime time) { return time.time_since_epoch().count(); }

std::string_view FateName(Fate fate) {
  switch (fate) {
    case Fate::kQueued:
      return "queued";
    case Fate::kDelayed:
      return "delayed";
    case Fate::kInFlight:
      return "in_flight";
    case Fate::kDying:
      return "dying";
    case Fate::kAcked:
      return "acked";
    case Fate::kDropped:
      return "dropped";
    case Fate::kDead:
      return "dead";
    case Fate::kExpired:
      return "expired";
    case Fate::kSettled:
      return "settled";
  }
  return "";
}

// The conditions of a journaled configuration; nullopt: this version cannot read it.
std::optional<RouteSpec> RouteOfJson(const std::string& name, const std::string& json) {
  JsonValue document;
  if (!JsonScanner(json).ReadDocument(document).ok() || document.kind != JsonKind::kObject) {
    return std::nullopt;
  }
  RouteSpec route;
  route.name = name;
  for (const JsonMember& member : JsonMembers(document)) {
    if (member.value.kind == JsonKind::kNull) continue;
    if (member.name == "sources" && member.value.kind == JsonKind::kArray) {
      for (const JsonValue& source : JsonElements(member.value)) {
        if (source.kind != JsonKind::kString) return std::nullopt;
        route.sources.push_back(JsonString(source));
      }
    } else if (member.name == "filters") {
      absl::StatusOr<FilterPtr> filter = FilterFromJson(member.value.raw);
      if (!filter.ok()) return std::nullopt;
      route.filter = *std::move(filter);
    } else if (member.name == "pattern") {
      absl::StatusOr<PatternPtr> pattern = Pattern::FromJson(member.value.raw);
      if (!pattern.ok()) return std::nullopt;
      route.pattern = *std::move(pattern);
    }
  }
  return route;
}

void SetVerdict(const Verdict& verdict, v1::TriggerVerdict& out) {
  out.set_matched(verdict.matched);
  out.set_reason(verdict.reason);
  out.set_clause(verdict.clause);
  out.set_expected(verdict.expected);
  out.set_actual(verdict.actual);
  for (const CesqlError& error : verdict.errors) {
    v1::VerdictError& added = *out.add_errors();
    added.set_kind(std::string(CesqlErrorName(error.kind)));
    added.set_message(error.message);
  }
}

class Explainer : public std::enable_shared_from_this<Explainer> {
 public:
  Explainer(const AdminService::Ports& ports, const v1::ExplainRequest& request,
            const std::atomic<bool>& draining, std::shared_ptr<WriteStream<v1::ExplainItem>> stream)
      : ports_(ports), request_(request), draining_(draining), stream_(std::move(stream)) {}

  void Start() {
    using What = v1::ExplainRequest::WhatCase;
    switch (request_.what_case()) {
      case What::kRef:
        if (request_.ref().partition() >= ports_.shards.partition_count()) {
          return Refuse(fmt::format("there is no partition {}, there are {}",
                                    request_.ref().partition(), ports_.shards.partition_count()));
        }
        return Read(
            {PartitionId(request_.ref().partition()), Offset(request_.ref().offset()), WallTime()});
      case What::kId:
        if (request_.id().empty()) return Refuse("`id` is empty");
        refusals_ = ports_.refusals.Find(request_.id(), request_.event_source(), kRefusalsShown);
        since_ = request_.since_us() != 0
                     ? WallTime(std::chrono::microseconds(request_.since_us()))
                     : ports_.clock.Wall() - std::chrono::microseconds(kLookBack);
        if (request_.event_source().empty()) return ScanFrom(0);
        return AskDedupe(0);
      case What::kEvent:
        return TryEvent();
      case What::WHAT_NOT_SET:
        return Refuse("name an event: by its place, its id, or as it is");
    }
  }

 private:
  struct Place {
    PartitionId partition;
    Offset offset;
    WallTime recorded;
  };

  void Refuse(std::string text) {
    stream_->Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, std::move(text)));
  }

  bool Ended() {
    if (draining_.load()) {
      stream_->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the broker is stopping"));
      return true;
    }
    if (!stream_->cancelled()) return false;
    stream_->Finish(grpc::Status::OK);
    return true;
  }

  // An event that is not stored: what the triggers would say of it.
  void TryEvent() {
    story_.bytes = request_.event();
    story_.source = request_.source();
    EventView view;
    absl::Status valid = ParseEvent(story_.bytes, view);
    if (valid.ok()) valid = ValidateEvent(view, story_.bytes.size(), ports_.event_limits);
    if (!valid.ok()) return stream_->Finish(ToGrpcStatus(valid));
    const Hash128 identity = HashSourceAndId(view.source, view.id, ports_.hash_seed);
    const PartitionId home = PartitionOfEvent(view, ports_.shards.partition_count());
    ports_.shards.Post(home, [self = shared_from_this(), identity, home](Partition& partition) {
      if (const std::optional<Offset> first = partition.FindRecent(identity)) {
        self->notes_.push_back(fmt::format("published now it would be a duplicate of {}/{}",
                                           home.value(), first->value()));
      }
      self->Judge();
    });
  }

  void AskDedupe(std::uint32_t number) {
    if (number == ports_.shards.partition_count()) {
      if (!places_.empty()) return ReadNewest();
      return ScanFrom(0);
    }
    const Hash128 identity =
        HashSourceAndId(request_.event_source(), request_.id(), ports_.hash_seed);
    ports_.shards.Post(PartitionId(number),
                       [self = shared_from_this(), identity, number](Partition& partition) {
                         if (const std::optional<Offset> at = partition.FindRecent(identity)) {
                           self->places_.push_back({PartitionId(number), *at, WallTime()});
                         }
                         self->AskDedupe(number + 1);
                       });
  }

  // Reads what was stored since, one partition after the other.
  void ScanFrom(std::uint32_t number) {
    scanned_ = true;
    if (number == ports_.shards.partition_count()) return ReadNewest();
    ports_.shards.Post(PartitionId(number),
                       [self = shared_from_this(), number](Partition& partition) {
                         const Offset from = partition.OffsetSince(self->since_);
                         self->scan_end_ = partition.end();
                         self->ScanPage(number, from, partition);
                       });
  }

  void ScanPage(std::uint32_t number, Offset from, Partition& partition) {
    partition.ReadEvents(from, kPageEvents, kPageBytes,
                         [self = shared_from_this(), number, from](absl::StatusOr<EventPage> page) {
                           self->OnScanned(number, from, std::move(page));
                         });
  }

  void OnScanned(std::uint32_t number, Offset from, absl::StatusOr<EventPage> page) {
    if (Ended()) return;
    if (!page.ok()) return stream_->Finish(ToGrpcStatus(page.status()));
    for (const EventRecordInfo& event : page->events) {
      if (event.recorded < since_) continue;
      ++events_seen_;
      EventView view;
      if (event.run > 0 || !ParseEvent(event.bytes, view).ok()) continue;
      if (view.id != request_.id()) continue;
      if (!request_.event_source().empty() && view.source != request_.event_source()) continue;
      if (places_.size() == kPlacesMax) places_.erase(places_.begin());
      places_.push_back({PartitionId(number), event.offset, event.recorded});
    }
    for (const std::string& gap : page->gaps) notes_.push_back("not all could be read: " + gap);
    if (!(page->next < scan_end_) || page->next <= from) return ScanFrom(number + 1);
    ports_.shards.Post(PartitionId(number),
                       [self = shared_from_this(), number, next = page->next](
                           Partition& partition) { self->ScanPage(number, next, partition); });
  }

  void ReadNewest() {
    const std::string span = fmt::format("events stored since {}: {} were looked at",
                                         FormatRfc3339(since_), events_seen_);
    if (places_.empty()) {
      if (refusals_.empty()) {
        return stream_->Finish(grpc::Status(
            grpc::StatusCode::NOT_FOUND,
            fmt::format("no event with id `{}`{} is among the {}; --since looks further back",
                        request_.id(),
                        request_.event_source().empty()
                            ? ""
                            : fmt::format(" and source `{}`", request_.event_source()),
                        span)));
      }
      return Write();
    }
    if (scanned_) notes_.push_back("found by a scan of the " + span);
    const auto newest =
        std::max_element(places_.begin(), places_.end(),
                         [](const Place& a, const Place& b) { return a.recorded < b.recorded; });
    const Place place = *newest;
    places_.erase(newest);
    for (const Place& other : places_) {
      notes_.push_back(fmt::format("the same id is stored at {}/{}, too", other.partition.value(),
                                   other.offset.value()));
    }
    Read(place);
  }

  void Read(const Place& place) {
    place_ = place;
    ports_.shards.Post(place.partition, [self = shared_from_this(), place](Partition& partition) {
      partition.Explain(place.offset, [self, place](absl::StatusOr<EventStory> story) {
        self->OnStory(place, std::move(story));
      });
    });
  }

  void OnStory(const Place& place, absl::StatusOr<EventStory> story) {
    if (Ended()) return;
    if (!story.ok()) {
      // The first run is not there any more: the later one tells what it knows.
      if (has_story_) return Judge();
      return stream_->Finish(ToGrpcStatus(story.status()));
    }
    const bool later_run = !has_story_ && story->origin != story->offset;
    if (later_run) {
      notes_.push_back(fmt::format("{}/{} is a later run of {}/{}", place.partition.value(),
                                   story->offset.value(), place.partition.value(),
                                   story->origin.value()));
    }
    has_story_ = true;
    story_ = *std::move(story);
    if (later_run) return Read({place.partition, story_.origin, WallTime()});
    if (!story_.whole) {
      notes_.emplace_back(
          "the log is long: what became of it may be told further on than was looked at");
    }
    Judge();
  }

  void Judge() {
    ports_.shards.Snapshots([self = shared_from_this()](std::vector<PartitionSnapshot> taken) {
      // Verdicts of many triggers take their time, which is not the partitions'.
      self->ports_.executor.Post([self, taken = std::move(taken)] { self->OnStates(taken); });
    });
  }

  void OnStates(const std::vector<PartitionSnapshot>& taken) {
    if (Ended()) return;
    for (v1::TriggerStatus& status :
         GatherTriggers(taken, ports_.dispatcher, ports_.clock.Wall())) {
      const std::string name = status.name();
      states_.emplace(name, std::move(status));
    }
    for (const ConfigThen& then : story_.configs) configs_[then.trigger] = then.config_json;
    EventView view;
    if (const absl::Status parsed = ParseEvent(story_.bytes, view); !parsed.ok()) {
      return stream_->Finish(ToGrpcStatus(parsed));
    }
    if (const AttributeView* expiry = view.Find("expirytime")) {
      const auto time = ParseRfc3339(expiry->text);
      if (expiry->kind != AttributeKind::kTimestamp && time.ok() && *time < ports_.clock.Wall()) {
        notes_.push_back(fmt::format("its expirytime, {}, is over", FormatRfc3339(*time)));
      }
    }
    AddHeader();
    std::set<std::string> told;
    for (const PlannedRoute& route : ports_.host.Routes()) {
      const std::string& name = route.plan->table->route(route.route).name;
      told.insert(name);
      if (!request_.trigger().empty() && name != request_.trigger()) continue;
      v1::TriggerVerdict& verdict = *items_.emplace_back().mutable_verdict();
      verdict.set_trigger(name);
      JudgeOne(route, view, verdict);
      TellTransformed(route, view, verdict);
      Describe(verdict);
    }
    // Those that had it and are not in force any more.
    for (const DeliveryFate& delivery : story_.deliveries) {
      if (!told.insert(delivery.trigger).second) continue;
      if (!request_.trigger().empty() && delivery.trigger != request_.trigger()) continue;
      v1::TriggerVerdict& verdict = *items_.emplace_back().mutable_verdict();
      verdict.set_trigger(delivery.trigger);
      verdict.set_matched(true);
      Describe(verdict);
    }
    if (!request_.trigger().empty() && !told.contains(request_.trigger())) {
      return stream_->Finish(
          grpc::Status(grpc::StatusCode::NOT_FOUND,
                       fmt::format("there is no trigger `{}`", request_.trigger())));
    }
    Write();
  }

  void AddHeader() {
    v1::ExplainedEvent& event = *items_.emplace_back().mutable_event();
    if (place_) {
      event.mutable_ref()->set_partition(place_->partition.value());
      event.mutable_ref()->set_offset(story_.offset.value());
      event.set_recorded_us(Micros(story_.recorded));
    }
    event.set_event(story_.bytes);
    event.set_source(story_.source);
    for (const std::string& note : notes_) event.add_notes(note);
  }

  void JudgeOne(const PlannedRoute& route, const EventView& view, v1::TriggerVerdict& out) const {
    const bool stored = place_.has_value();
    const bool had_it = std::any_of(
        story_.deliveries.begin(), story_.deliveries.end(), [&](const DeliveryFate& delivery) {
          return delivery.trigger == out.trigger() && delivery.offset == story_.offset;
        });
    // The record says what matched; it was decided once.
    if (stored && had_it) {
      out.set_matched(true);
      return;
    }
    Verdict verdict;
    const auto then = configs_.find(out.trigger());
    std::optional<RouteSpec> former;
    if (then != configs_.end()) former = RouteOfJson(out.trigger(), then->second);
    if (former) {
      out.add_notes("by its configuration of that time, which was changed since");
      verdict = RouteTable::Build({*std::move(former)})->Explain(0, view, story_.source);
    } else {
      verdict = route.plan->table->Explain(route.route, view, story_.source);
    }
    SetVerdict(verdict, out);
    if (!stored || !verdict.matched) return;
    out.set_matched(false);
    out.set_reason(story_.run > 0
                       ? "this is a later run, for another trigger alone"
                       : "it matches, but the trigger was not in force when the event came: it was "
                         "added, attached again or changed later");
  }

  // What the function gets instead of the event.
  void TellTransformed(const PlannedRoute& route, const EventView& view,
                       v1::TriggerVerdict& out) const {
    const TransformPtr& transform = route.plan->table->route(route.route).transform;
    if (!out.matched() || transform == nullptr) return;
    absl::StatusOr<std::string> made = transform->Apply(view, ports_.event_limits);
    if (made.ok()) {
      out.set_receives(*std::move(made));
    } else {
      out.set_receives_refused(std::string(MessageOf(made.status())));
    }
  }

  // The trigger's state and what became of its deliveries.
  void Describe(v1::TriggerVerdict& out) const {
    const auto state = states_.find(out.trigger());
    if (state != states_.end()) {
      out.set_state(state->second.state());
      out.set_function(state->second.function());
      out.set_workers(state->second.workers());
      if (!state->second.blocking_key().empty()) {
        out.add_notes(fmt::format("key `{}` holds it up", state->second.blocking_key()));
      }
      if (state->second.state() == "paused") out.add_notes("it is paused");
      if (state->second.state() == "throttled") {
        out.add_notes("its `rate` is used up: what is ready waits for its turn");
      }
      if (state->second.state() == "detached") out.add_notes("it is detached");
      if (state->second.workers() == 0 && !state->second.function().empty()) {
        out.add_notes(fmt::format("no worker serves `{}`", state->second.function()));
      }
    }
    for (const DeliveryFate& delivery : story_.deliveries) {
      if (delivery.trigger != out.trigger()) continue;
      v1::DeliveryFate& fate = *out.add_deliveries();
      fate.set_id(FormatDeliveryId(delivery.id));
      fate.mutable_ref()->set_partition(delivery.id.partition.value());
      fate.mutable_ref()->set_offset(delivery.offset.value());
      fate.set_state(std::string(FateName(delivery.fate)));
      fate.set_detail(delivery.detail);
      fate.set_failed(delivery.failed);
      if (delivery.next_attempt) fate.set_next_attempt_us(Micros(*delivery.next_attempt));
    }
  }

  void Write() {
    for (const Refusal& refusal : refusals_) {
      v1::RefusedEvent& refused = *items_.emplace_back().mutable_refused();
      refused.set_at_us(Micros(refusal.at));
      refused.set_id(refusal.id);
      refused.set_event_source(refusal.source);
      refused.set_type(refusal.type);
      refused.set_source(refusal.lane);
      refused.set_reason(refusal.reason);
      if (refusal.first) {
        refused.mutable_first()->set_partition(refusal.partition.value());
        refused.mutable_first()->set_offset(refusal.first->value());
      }
    }
    WriteNext();
  }

  void WriteNext() {
    if (next_ == items_.size()) return stream_->Finish(grpc::Status::OK);
    stream_->Write(std::move(items_[next_++]), [self = shared_from_this()](bool ok) {
      if (ok) return self->WriteNext();
      self->stream_->Finish(grpc::Status::OK);
    });
  }

  const AdminService::Ports& ports_;
  const v1::ExplainRequest request_;
  const std::atomic<bool>& draining_;
  const std::shared_ptr<WriteStream<v1::ExplainItem>> stream_;

  // One step at a time touches these.
  std::vector<Refusal> refusals_;
  WallTime since_;
  std::uint64_t events_seen_ = 0;
  bool scanned_ = false;
  Offset scan_end_;  // of the partition that is looked at: what comes meanwhile is not
  std::vector<Place> places_;
  std::optional<Place> place_;
  bool has_story_ = false;
  EventStory story_;
  std::vector<std::string> notes_;
  std::map<std::string, v1::TriggerStatus> states_;
  std::map<std::string, std::string> configs_;
  std::vector<v1::ExplainItem> items_;
  std::size_t next_ = 0;
};

}  // namespace

void ExplainTo(const AdminService::Ports& ports, const v1::ExplainRequest& request,
               const std::atomic<bool>& draining,
               std::shared_ptr<WriteStream<v1::ExplainItem>> stream) {
  std::make_shared<Explainer>(ports, request, draining, std::move(stream))->Start();
}

}  // namespace tocsin
