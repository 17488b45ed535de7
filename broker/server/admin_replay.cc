#include "broker/server/admin_replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/status.h"
#include "broker/server/grpc_auth.h"

namespace tocsin {
namespace {

using Request = v1::ReplayRequest;

constexpr Duration kLookEvery = std::chrono::milliseconds(100);

struct Place {
  std::uint32_t partition = 0;
  std::uint64_t offset = 0;
};

std::optional<Place> ParsePlace(std::string_view text) {
  Place place;
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const auto parse = [](std::string_view digits, auto& value) {
    const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && rest == digits.data() + digits.size();
  };
  if (!parse(text.substr(0, slash), place.partition)) return std::nullopt;
  if (!parse(text.substr(slash + 1), place.offset)) return std::nullopt;
  return place;
}

class Replayer : public std::enable_shared_from_this<Replayer> {
 public:
  Replayer(const AdminService::Ports& ports, const Request& request,
           const std::atomic<bool>& draining, std::shared_ptr<WriteStream<v1::ReplayReport>> stream)
      : ports_(ports), request_(request), draining_(draining), stream_(std::move(stream)) {}

  void Start() {
    for (std::uint32_t i = 0; i < ports_.shards.partition_count(); ++i) partitions_.push_back(i);
    order_.from_us = request_.from_us();
    order_.until_us = request_.until_us();
    order_.where = request_.where();
    order_.dry_run = request_.dry_run();
    if (request_.trigger().empty()) return Refuse("`trigger` is empty");
    if (!std::isfinite(request_.rate()) || request_.rate() < 0 || request_.rate() > 1e9) {
      return Refuse("`rate` must be a number of events a second, at least 0");
    }
    order_.rate_millis = static_cast<std::uint64_t>(std::ceil(request_.rate() * 1000));
    for (const std::string* text : {&request_.from(), &request_.to()}) {
      if (text->empty()) continue;
      const std::optional<Place> place = ParsePlace(*text);
      if (!place || place->partition >= ports_.shards.partition_count()) {
        return Refuse(fmt::format("`{}` is no <partition>/<offset> with a partition below {}",
                                  *text, ports_.shards.partition_count()));
      }
      if (partitions_.size() == 1 && partitions_[0] != place->partition && named_) {
        return Refuse("`from` and `to` are of different partitions");
      }
      named_ = true;
      partitions_ = {place->partition};
      (text == &request_.from() ? order_.from : order_.end) = Offset(place->offset);
    }
    // A share for each; one that is named has the whole rate.
    if (named_) order_.rate_millis *= ports_.shards.partition_count();
    progress_.resize(partitions_.size());
    switch (request_.action()) {
      case Request::START:
        return Begin(0);
      case Request::WATCH:
        return Look(0);
      case Request::STOP:
        return Stop(0, absl::OkStatus());
      default:
        return Refuse("`action` must be start, watch or stop");
    }
  }

 private:
  void Refuse(std::string text) {
    stream_->Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, std::move(text)));
  }

  void Begin(std::size_t index) {
    if (index == partitions_.size()) {
      if (!taken_.ok()) return stream_->Finish(ToGrpcStatus(taken_));
      if (!request_.dry_run()) return Look(0);
      return Tell();
    }
    ports_.shards.Post(PartitionId(partitions_[index]),
                       [self = shared_from_this(), index](Partition& partition) {
                         partition.Replay(self->request_.trigger(), self->order_,
                                          [self, index](absl::StatusOr<ReplayProgress> progress) {
                                            self->OnBegun(index, std::move(progress));
                                          });
                       });
  }

  void OnBegun(std::size_t index, absl::StatusOr<ReplayProgress> progress) {
    if (progress.ok()) {
      progress_[index] = *progress;
      return Begin(index + 1);
    }
    if (IsTakenWithoutRoom(progress.status())) {  // it has begun
      taken_ = progress.status();
      return Begin(index + 1);
    }
    if (request_.dry_run() || index == 0) return stream_->Finish(ToGrpcStatus(progress.status()));
    // Those before it have begun.
    partitions_.resize(index);
    Stop(0, progress.status());
  }

  void Stop(std::size_t index, const absl::Status& why) {
    if (index == partitions_.size()) {
      if (!why.ok()) return stream_->Finish(ToGrpcStatus(why));
      return Look(0);
    }
    ports_.shards.Post(PartitionId(partitions_[index]), [self = shared_from_this(), index,
                                                         why](Partition& partition) {
      const absl::Status stopped = partition.StopReplay(self->request_.trigger());
      partition.OnceDurable([self, index, next = why.ok() ? stopped : why](absl::Status durable) {
        self->Stop(index + 1, next.ok() ? durable : next);
      });
    });
  }

  void Look(std::size_t index) {
    if (draining_.load()) {
      return stream_->Finish(
          grpc::Status(grpc::StatusCode::UNAVAILABLE,
                       "the broker is stopping; the replay goes on when it is back"));
    }
    if (stream_->cancelled()) return stream_->Finish(grpc::Status::OK);
    if (index == partitions_.size()) return Tell();
    ports_.shards.Post(PartitionId(partitions_[index]),
                       [self = shared_from_this(), index](Partition& partition) {
                         self->progress_[index] = partition.ReplayOf(self->request_.trigger());
                         self->Look(index + 1);
                       });
  }

  void Tell() {
    v1::ReplayReport report;
    bool any = false;
    bool active = false;
    for (const ReplayProgress& progress : progress_) {
      any = any || progress.number > 0 || request_.dry_run();
      active = active || progress.active;
      report.set_copied(report.copied() + progress.copied);
      report.set_total(report.total() + progress.end.value() - progress.from.value());
      report.set_done(report.done() + std::max(progress.next, progress.from).value() -
                      progress.from.value());
      report.set_stopped(report.stopped() || progress.stopped);
    }
    if (!any) {
      return stream_->Finish(
          grpc::Status(grpc::StatusCode::NOT_FOUND,
                       fmt::format("no replay of trigger `{}` is known of", request_.trigger())));
    }
    report.set_over(!active);
    stream_->Write(std::move(report), [self = shared_from_this(), active](bool ok) {
      if (!ok || !active) return self->stream_->Finish(grpc::Status::OK);
      self->ports_.executor.PostAt(self->ports_.clock.Monotonic() + kLookEvery,
                                   [self] { self->Look(0); });
    });
  }

  const AdminService::Ports& ports_;
  const Request request_;
  const std::atomic<bool>& draining_;
  const std::shared_ptr<WriteStream<v1::ReplayReport>> stream_;
  ReplayOrder order_;
  bool named_ = false;
  std::vector<std::uint32_t> partitions_;
  std::vector<ReplayProgress> progress_;  // parallel
  absl::Status taken_;                    // of one that begins when there is room
};

}  // namespace

void ReplayTo(const AdminService::Ports& ports, const v1::ReplayRequest& request,
              const std::atomic<bool>& draining,
              std::shared_ptr<WriteStream<v1::ReplayReport>> stream) {
  std::make_shared<Replayer>(ports, request, draining, std::move(stream))->Start();
}

}  // namespace tocsin
