#include "broker/server/admin_schedules.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "broker/base/json_scan.h"
#include "broker/base/mutex.h"
#include "broker/base/status.h"
#include "broker/partition/lane.h"
#include "broker/partition/schedule_table.h"
#include "broker/schedule/rule.h"
#include "broker/server/grpc_auth.h"

namespace tocsin {
namespace {

constexpr std::size_t kPageSchedules = 512;
constexpr std::size_t kBackfillStep = 256;
constexpr std::size_t kHeadBytesMax = 64 * 1024;
constexpr std::string_view kNameCharacters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@-";

template <typename... Arguments>
absl::Status Wrong(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  return absl::InvalidArgumentError(
      fmt::format("T0339: {}", fmt::format(text, std::forward<Arguments>(arguments)...)));
}

template <typename T>
struct Word {
  std::string_view name;
  T value;
};

template <typename T, std::size_t N>
absl::Status ReadWord(std::string_view key, std::string_view text, const Word<T> (&words)[N],
                      T& value) {
  if (text.empty()) return absl::OkStatus();
  std::string known;
  for (const Word<T>& word : words) {
    if (word.name == text) {
      value = word.value;
      return absl::OkStatus();
    }
    known += fmt::format("{}`{}`", known.empty() ? "" : ", ", word.name);
  }
  return Wrong("{} is `{}`; it takes {}", key, text, known);
}

template <typename T, std::size_t N>
std::string WordOf(T value, const Word<T> (&words)[N]) {
  for (const Word<T>& word : words) {
    if (word.value == value) return std::string(word.name);
  }
  return {};
}

constexpr Word<MissedPolicy> kMissed[] = {
    {"last", MissedPolicy::kLast}, {"all", MissedPolicy::kAll}, {"skip", MissedPolicy::kSkip}};
constexpr Word<OverlapPolicy> kOverlap[] = {{"skip", OverlapPolicy::kSkip},
                                            {"queue_one", OverlapPolicy::kQueueOne},
                                            {"queue_all", OverlapPolicy::kQueueAll},
                                            {"cancel_previous", OverlapPolicy::kCancelPrevious},
                                            {"allow", OverlapPolicy::kAllow}};
constexpr Word<DstGap> kGap[] = {{"next", DstGap::kNext}, {"skip", DstGap::kSkip}};
constexpr Word<DstOverlap> kTwice[] = {{"first", DstOverlap::kFirst}, {"both", DstOverlap::kBoth}};

absl::StatusOr<ScheduleSpec> ToSpec(const v1::Schedule& schedule) {
  ScheduleSpec spec;
  spec.name = schedule.name();
  spec.cron = schedule.cron();
  if (!schedule.timezone().empty()) spec.timezone = schedule.timezone();
  TOCSIN_RETURN_IF_ERROR(ReadWord("missed", schedule.missed(), kMissed, spec.missed));
  TOCSIN_RETURN_IF_ERROR(ReadWord("overlap", schedule.overlap(), kOverlap, spec.overlap));
  TOCSIN_RETURN_IF_ERROR(ReadWord("dst_gap", schedule.dst_gap(), kGap, spec.dst_gap));
  TOCSIN_RETURN_IF_ERROR(ReadWord("dst_overlap", schedule.dst_overlap(), kTwice, spec.dst_overlap));
  if (schedule.missed_window_us() != 0) {
    spec.missed_window = std::chrono::microseconds(schedule.missed_window_us());
  }
  if (schedule.missed_max() != 0) spec.missed_max = schedule.missed_max();
  spec.spread = std::chrono::microseconds(schedule.spread_us());
  spec.jitter = std::chrono::microseconds(schedule.jitter_us());
  const auto parsed = Schedule::Parse(spec);
  if (!parsed.ok()) return Wrong("`{}`: {}", spec.cron, MessageOf(parsed.status()));
  if ((*parsed)->at_boot()) {
    return Wrong("@reboot is for the configuration: what is added here is added while it runs");
  }
  return spec;
}

absl::Status CheckName(const std::string& name) {
  if (name.empty() || name.size() > kScheduleNameBytesMax) {
    return Wrong("a name has 1 to {} characters", kScheduleNameBytesMax);
  }
  const std::size_t bad = name.find_first_not_of(kNameCharacters);
  if (bad == std::string::npos) return absl::OkStatus();
  return Wrong("the name `{}` has a character that it may not have: letters, digits and `._:@-` do",
               name);
}

absl::Status SetEvent(const v1::Schedule& schedule, const EventLimits& limits, NewSchedule& added) {
  const std::string& name = schedule.name();
  EventBuilder builder(name, schedule.source().empty() ? ScheduleSource(name) : schedule.source(),
                       schedule.type().empty() ? "dev.tocsin.timer.fired" : schedule.type());
  if (!schedule.subject().empty()) builder.Attribute("subject", schedule.subject());
  for (const auto& [key, value] : std::map<std::string, std::string>(schedule.attributes().begin(),
                                                                     schedule.attributes().end())) {
    if (key == "id" || key == "source" || key == "type" || key == "specversion" || key == "time" ||
        key == "subject" || key == "recordedtime" || key == "datacontenttype" ||
        key.starts_with(kReservedPrefix)) {
      return Wrong("the attribute `{}` is not to be set here", key);
    }
    builder.Attribute(key, value);
  }
  added.text_data = schedule.data_case() != v1::Schedule::kBinaryData;
  added.data = added.text_data ? schedule.text_data() : schedule.binary_data();
  if (!added.data.empty()) {
    const std::string& given = schedule.datacontenttype();
    const std::string type = given.empty() ? "application/json" : given;
    if (given.empty()) {
      JsonValue value;
      if (const absl::Status json = JsonScanner(added.data).ReadDocument(value); !json.ok()) {
        return Wrong("the data are not JSON ({}): say what they are by datacontenttype",
                     MessageOf(json));
      }
    }
    builder.Attribute("datacontenttype", type);
  }
  added.head = std::move(builder).Encode();
  EventView view;
  absl::Status valid = ParseEvent(added.head, view);
  if (valid.ok()) valid = ValidateEvent(view, added.head.size() + added.data.size() + 512, limits);
  if (!valid.ok()) return Wrong("its events would not be valid: {}", MessageOf(valid));
  if (added.head.size() > kHeadBytesMax) return Wrong("its attributes take more than 64 KiB");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NewSchedule> ToNewSchedule(const v1::Schedule& schedule, const EventLimits& limits,
                                          WallTime now) {
  NewSchedule added;
  TOCSIN_RETURN_IF_ERROR(CheckName(schedule.name()));
  added.name = schedule.name();
  added.paused = schedule.paused();
  switch (schedule.when_case()) {
    case v1::Schedule::kCron: {
      TOCSIN_ASSIGN_OR_RETURN(const ScheduleSpec spec, ToSpec(schedule));
      added.rule = EncodeRule(spec);
      break;
    }
    case v1::Schedule::kAtUs:
    case v1::Schedule::kInUs: {
      const bool at = schedule.when_case() == v1::Schedule::kAtUs;
      if (!at && schedule.in_us() < 0) return Wrong("`in` lies behind");
      added.at = at ? WallTime(std::chrono::microseconds(schedule.at_us()))
                    : now + std::chrono::microseconds(schedule.in_us());
      if (added.at->time_since_epoch().count() < 1 ||
          *added.at >= std::chrono::sys_days(std::chrono::year(kScheduleLastYear + 1) / 1 / 1)) {
        return Wrong("its time lies between 1970 and {}", kScheduleLastYear);
      }
      break;
    }
    default:
      return Wrong("`{}` says nothing of when it fires: cron, at or in", schedule.name());
  }
  TOCSIN_RETURN_IF_ERROR(SetEvent(schedule, limits, added));
  return added;
}

v1::ScheduleStatus ToScheduleStatus(const ScheduleInfo& info, PartitionId partition) {
  v1::ScheduleStatus status;
  v1::Schedule& schedule = *status.mutable_schedule();
  const auto micros = [](Duration duration) {
    return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  };
  schedule.set_name(info.name);
  schedule.set_paused(info.paused);
  if (info.at) {
    schedule.set_at_us(info.at->time_since_epoch().count());
  } else {
    schedule.set_cron(info.spec.cron);
    schedule.set_timezone(info.spec.timezone);
    schedule.set_missed(WordOf(info.spec.missed, kMissed));
    schedule.set_missed_window_us(micros(info.spec.missed_window));
    schedule.set_missed_max(info.spec.missed_max);
    schedule.set_overlap(WordOf(info.spec.overlap, kOverlap));
    schedule.set_spread_us(micros(info.spec.spread));
    schedule.set_jitter_us(micros(info.spec.jitter));
    schedule.set_dst_gap(WordOf(info.spec.dst_gap, kGap));
    schedule.set_dst_overlap(WordOf(info.spec.dst_overlap, kTwice));
  }
  EventView head;
  if (info.delayed) {
    status.set_event(info.head);
  } else if (ParseEvent(info.head, head).ok()) {
    schedule.set_source(std::string(head.source));
    schedule.set_type(std::string(head.type));
    for (const AttributeView& attribute : head.attributes) {
      const std::string value = CanonicalValue(attribute);
      if (attribute.name == "subject") {
        schedule.set_subject(value);
      } else if (attribute.name == "datacontenttype") {
        schedule.set_datacontenttype(value);
      } else if (attribute.name != "time" && attribute.name != "recordedtime") {
        (*schedule.mutable_attributes())[std::string(attribute.name)] = value;
      }
    }
    const std::string data = info.configured ? std::string(head.data) : info.data;
    const bool text = info.configured ? head.data_kind == DataKind::kText : info.text_data;
    if (!data.empty() && text) schedule.set_text_data(data);
    if (!data.empty() && !text) schedule.set_binary_data(data);
  }
  status.set_kind(info.configured ? "configured"
                  : info.delayed  ? "delayed"
                  : info.at       ? "once"
                                  : "recurring");
  status.set_state(info.paused ? "paused" : info.busy ? "busy" : "waiting");
  if (info.next) status.set_next_us(info.next->time_since_epoch().count());
  status.set_fired(info.fired);
  status.set_skipped(info.skipped);
  status.set_partition(partition.value());
  return status;
}

void AddSchedulesTo(Shards& shards, const v1::AddSchedulesRequest& request,
                    const EventLimits& limits, WallTime now,
                    absl::AnyInvocable<void(v1::AddSchedulesResponse)> done) {
  struct Gathering {
    Mutex mutex;
    v1::AddSchedulesResponse response ABSL_GUARDED_BY(mutex);
    std::size_t left ABSL_GUARDED_BY(mutex) = 1;
    absl::AnyInvocable<void(v1::AddSchedulesResponse)> done;
  };
  auto gathering = std::make_shared<Gathering>();
  gathering->done = std::move(done);
  const auto refuse = [](v1::AddSchedulesResponse& response, std::size_t index,
                         const absl::Status& status) {
    v1::ScheduleRefusal& refusal = *response.add_refusals();
    refusal.set_index(static_cast<std::uint32_t>(index));
    refusal.set_code(static_cast<int>(status.code()));
    refusal.set_error(std::string(MessageOf(status)));
  };
  const auto finish = [gathering] {
    v1::AddSchedulesResponse response;
    {
      MutexLock lock(gathering->mutex);
      if (--gathering->left > 0) return;
      response = std::move(gathering->response);
    }
    std::sort(response.mutable_refusals()->pointer_begin(),
              response.mutable_refusals()->pointer_end(),
              [](const auto* a, const auto* b) { return a->index() < b->index(); });
    gathering->done(std::move(response));
  };
  std::map<std::uint32_t, std::pair<std::vector<NewSchedule>, std::vector<std::size_t>>> by_home;
  for (int i = 0; i < request.schedules_size(); ++i) {
    absl::StatusOr<NewSchedule> added = ToNewSchedule(request.schedules(i), limits, now);
    if (!added.ok()) {
      MutexLock lock(gathering->mutex);
      refuse(gathering->response, static_cast<std::size_t>(i), added.status());
      continue;
    }
    added->replace = request.replace();
    auto& [schedules, indexes] =
        by_home[PartitionOfLane({added->name, ""}, shards.partition_count()).value()];
    schedules.push_back(std::move(*added));
    indexes.push_back(static_cast<std::size_t>(i));
  }
  {
    MutexLock lock(gathering->mutex);
    gathering->left += by_home.size();
  }
  for (auto& [home, batch] : by_home) {
    shards.Post(PartitionId(home), [gathering, finish, refuse, schedules = std::move(batch.first),
                                    indexes = std::move(batch.second)](Partition& owner) mutable {
      owner.AddSchedules(std::move(schedules),
                         [gathering, finish, refuse,
                          indexes = std::move(indexes)](const std::vector<absl::Status>& results) {
                           {
                             MutexLock lock(gathering->mutex);
                             for (std::size_t i = 0; i < results.size(); ++i) {
                               if (!results[i].ok())
                                 refuse(gathering->response, indexes[i], results[i]);
                             }
                           }
                           finish();
                         });
    });
  }
  finish();
}

void ControlScheduleOf(Shards& shards, const v1::ControlScheduleRequest& request,
                       absl::AnyInvocable<void(absl::StatusOr<v1::ScheduleStatus>)> done) {
  using Request = v1::ControlScheduleRequest;
  ScheduleAction action = ScheduleAction::kPause;
  switch (request.action()) {
    case Request::PAUSE:
    case Request::SHOW:
      break;
    case Request::RESUME:
      action = ScheduleAction::kResume;
      break;
    case Request::REMOVE:
      action = ScheduleAction::kRemove;
      break;
    case Request::FIRE:
      action = ScheduleAction::kFire;
      break;
    default:
      return done(
          absl::InvalidArgumentError("`action` must be pause, resume, remove, fire or show"));
  }
  const bool show = request.action() == Request::SHOW;
  const PartitionId home = PartitionOfLane({request.name(), ""}, shards.partition_count());
  shards.Post(home, [name = request.name(), action, show, home,
                     done = std::move(done)](Partition& owner) mutable {
    auto answer = [done = std::move(done), home](absl::StatusOr<ScheduleInfo> info) mutable {
      if (!info.ok()) return done(info.status());
      done(ToScheduleStatus(*info, home));
    };
    if (show) return answer(owner.DescribeSchedule(name));
    owner.ControlSchedule(name, action, std::move(answer));
  });
}

namespace {

class Lister : public std::enable_shared_from_this<Lister> {
 public:
  Lister(Shards& shards, bool delayed, const std::atomic<bool>& draining,
         std::shared_ptr<WriteStream<v1::ScheduleStatus>> stream)
      : shards_(shards), delayed_(delayed), draining_(draining), stream_(std::move(stream)) {}

  void Next() {
    if (draining_.load()) {
      return stream_->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the broker is stopping"));
    }
    if (stream_->cancelled() || home_ == shards_.partition_count()) {
      return stream_->Finish(grpc::Status::OK);
    }
    shards_.Post(PartitionId(home_), [self = shared_from_this()](Partition& partition) {
      self->page_ = partition.ListSchedules(self->from_, kPageSchedules, self->delayed_);
      self->index_ = 0;
      self->WriteNext();
    });
  }

 private:
  void WriteNext() {
    if (index_ < page_.schedules.size()) {
      stream_->Write(ToScheduleStatus(page_.schedules[index_++], PartitionId(home_)),
                     [self = shared_from_this()](bool ok) {
                       if (ok) return self->WriteNext();
                       self->stream_->Finish(grpc::Status::OK);
                     });
      return;
    }
    from_ = page_.end ? 0 : page_.next;
    if (page_.end) ++home_;
    Next();
  }

  Shards& shards_;
  const bool delayed_;
  const std::atomic<bool>& draining_;
  const std::shared_ptr<WriteStream<v1::ScheduleStatus>> stream_;
  std::uint32_t home_ = 0;
  std::uint32_t from_ = 0;
  SchedulePage page_;
  std::size_t index_ = 0;
};

class Backfiller : public std::enable_shared_from_this<Backfiller> {
 public:
  Backfiller(Shards& shards, const v1::BackfillScheduleRequest& request,
             const std::atomic<bool>& draining,
             std::shared_ptr<WriteStream<v1::BackfillProgress>> stream)
      : shards_(shards),
        request_(request),
        draining_(draining),
        stream_(std::move(stream)),
        from_(std::chrono::microseconds(request.from_us())) {}

  void Next() {
    if (draining_.load()) {
      return stream_->Finish(grpc::Status(
          grpc::StatusCode::UNAVAILABLE,
          fmt::format("the broker is stopping; {} instants have fired, say it again for the others",
                      count_)));
    }
    if (stream_->cancelled()) return stream_->Finish(grpc::Status::OK);
    const PartitionId home = PartitionOfLane({request_.name(), ""}, shards_.partition_count());
    shards_.Post(home, [self = shared_from_this()](Partition& partition) {
      partition.Backfill(self->request_.name(), self->from_,
                         WallTime(std::chrono::microseconds(self->request_.to_us())), kBackfillStep,
                         self->request_.dry_run(),
                         [self](absl::StatusOr<BackfillStep> step) { self->OnStep(step); });
    });
  }

 private:
  void OnStep(const absl::StatusOr<BackfillStep>& step) {
    if (!step.ok()) return stream_->Finish(ToGrpcStatus(step.status()));
    count_ += step->count;
    from_ = step->next;
    v1::BackfillProgress progress;
    progress.set_count(count_);
    for (const WallTime instant : step->instants) {
      progress.add_instants_us(instant.time_since_epoch().count());
    }
    stream_->Write(std::move(progress), [self = shared_from_this(), end = step->end](bool ok) {
      if (end || !ok) return self->stream_->Finish(grpc::Status::OK);
      self->Next();
    });
  }

  Shards& shards_;
  const v1::BackfillScheduleRequest request_;
  const std::atomic<bool>& draining_;
  const std::shared_ptr<WriteStream<v1::BackfillProgress>> stream_;
  WallTime from_;
  std::uint64_t count_ = 0;
};

}  // namespace

void ListSchedulesTo(Shards& shards, const v1::ListSchedulesRequest& request,
                     const std::atomic<bool>& draining,
                     std::shared_ptr<WriteStream<v1::ScheduleStatus>> stream) {
  std::make_shared<Lister>(shards, request.delayed(), draining, std::move(stream))->Next();
}

void BackfillTo(Shards& shards, const v1::BackfillScheduleRequest& request,
                const std::atomic<bool>& draining,
                std::shared_ptr<WriteStream<v1::BackfillProgress>> stream) {
  if (request.from_us() > request.to_us()) {
    return stream->Finish(
        grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "T0342: `from` comes after `to`"));
  }
  std::make_shared<Backfiller>(shards, request, draining, std::move(stream))->Next();
}

}  // namespace tocsin
