#include "broker/server/admin_tail.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/status.h"
#include "broker/server/grpc_auth.h"

namespace tocsin {
namespace {

constexpr std::size_t kPageEvents = 256;
constexpr std::size_t kPageBytes = 256 * 1024;
constexpr Duration kFollowEvery = std::chrono::milliseconds(50);

struct Place {
  PartitionId partition;
  Offset offset;
};

std::optional<Place> ParsePlace(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  std::uint32_t partition = 0;
  std::uint64_t offset = 0;
  const auto parse = [](std::string_view digits, auto& value) {
    const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && rest == digits.data() + digits.size();
  };
  if (!parse(text.substr(0, slash), partition) || !parse(text.substr(slash + 1), offset)) {
    return std::nullopt;
  }
  return Place{PartitionId(partition), Offset(offset)};
}

class Tailer : public std::enable_shared_from_this<Tailer> {
 public:
  Tailer(Shards& shards, const v1::TailRequest& request, std::optional<Place> place,
         Executor& executor, const Clock& clock, const std::atomic<bool>& draining,
         std::shared_ptr<WriteStream<v1::TailEvent>> stream)
      : shards_(shards),
        request_(request),
        place_(place),
        executor_(executor),
        clock_(clock),
        draining_(draining),
        stream_(std::move(stream)) {}

  void Start() {
    shards_.Snapshots([self = shared_from_this()](const std::vector<PartitionSnapshot>& all) {
      for (const PartitionSnapshot& snapshot : all) {
        if (self->place_ && self->place_->partition != snapshot.id) continue;
        Cursor cursor;
        cursor.partition = snapshot.id;
        cursor.stop = snapshot.end;
        cursor.next = self->place_ ? std::max(self->place_->offset, snapshot.start)
                      : self->request_.from() == "start" ? snapshot.start
                                                         : snapshot.durable_end;
        self->cursors_.push_back(cursor);
      }
      self->Next();
    });
  }

 private:
  struct Cursor {
    PartitionId partition;
    Offset next;
    Offset stop;        // the end at the beginning: where it ends without `follow`
    bool idle = false;  // this round found nothing
  };

  void Next() {
    if (draining_.load()) {
      return stream_->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the broker is stopping"));
    }
    if (stream_->cancelled() || (request_.limit() > 0 && written_ >= request_.limit())) {
      return stream_->Finish(grpc::Status::OK);
    }
    // One page of each partition in turn.
    for (std::size_t step = 0; step < cursors_.size(); ++step) {
      turn_ = (turn_ + 1) % cursors_.size();
      Cursor& cursor = cursors_[turn_];
      if (cursor.idle || (!request_.follow() && cursor.next >= cursor.stop)) continue;
      return Read(cursor);
    }
    if (!request_.follow()) return stream_->Finish(grpc::Status::OK);
    executor_.PostAt(clock_.Monotonic() + kFollowEvery, [self = shared_from_this()] {
      for (Cursor& cursor : self->cursors_) cursor.idle = false;
      self->Next();
    });
  }

  void Read(Cursor& cursor) {
    shards_.Post(cursor.partition, [self = shared_from_this(), &cursor](Partition& partition) {
      partition.ReadEvents(cursor.next, kPageEvents, kPageBytes,
                           [self, &cursor](absl::StatusOr<EventPage> page) {
                             self->OnPage(cursor, std::move(page));
                           });
    });
  }

  void OnPage(Cursor& cursor, absl::StatusOr<EventPage> page) {
    if (!page.ok()) return stream_->Finish(ToGrpcStatus(page.status()));
    cursor.idle = page->next <= cursor.next;
    if (cursor.idle && !request_.follow()) cursor.next = cursor.stop;
    cursor.next = std::max(cursor.next, page->next);
    page_ = std::move(*page);
    page_partition_ = cursor.partition;
    page_stop_ = cursor.stop;
    index_ = 0;
    WriteNext();
  }

  void WriteNext() {
    const std::string& trigger = request_.trigger();
    while (index_ < page_.events.size()) {
      EventRecordInfo& event = page_.events[index_++];
      if (request_.limit() > 0 && written_ >= request_.limit()) break;
      if (!request_.follow() && event.offset >= page_stop_) break;
      if (!trigger.empty() && std::find(event.triggers.begin(), event.triggers.end(), trigger) ==
                                  event.triggers.end()) {
        continue;
      }
      v1::TailEvent out;
      out.mutable_ref()->set_partition(page_partition_.value());
      out.mutable_ref()->set_offset(event.offset.value());
      out.set_event(std::move(event.bytes));
      out.set_recorded_us(event.recorded.time_since_epoch().count());
      for (const std::string& name : event.triggers) out.add_triggers(name);
      ++written_;
      stream_->Write(std::move(out), [self = shared_from_this()](bool ok) {
        if (ok) return self->WriteNext();
        self->page_ = EventPage();
        self->Next();
      });
      return;
    }
    page_ = EventPage();
    Next();
  }

  Shards& shards_;
  const v1::TailRequest request_;
  const std::optional<Place> place_;
  Executor& executor_;
  const Clock& clock_;
  const std::atomic<bool>& draining_;
  const std::shared_ptr<WriteStream<v1::TailEvent>> stream_;
  std::vector<Cursor> cursors_;
  std::size_t turn_ = 0;
  std::uint64_t written_ = 0;

  // The page being written.
  EventPage page_;
  PartitionId page_partition_;
  Offset page_stop_;
  std::size_t index_ = 0;
};

}  // namespace

void TailTo(Shards& shards, const v1::TailRequest& request, Executor& executor, const Clock& clock,
            const std::atomic<bool>& draining, std::shared_ptr<WriteStream<v1::TailEvent>> stream) {
  std::optional<Place> place;
  const std::string& from = request.from();
  if (!from.empty() && from != "start" && from != "end") {
    place = ParsePlace(from);
    if (!place || place->partition.value() >= shards.partition_count()) {
      return stream->Finish(
          grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                       fmt::format("`from` is `{}`: say start, end or <partition>/<offset> with a "
                                   "partition below {}",
                                   from, shards.partition_count())));
    }
  }
  std::make_shared<Tailer>(shards, request, place, executor, clock, draining, std::move(stream))
      ->Start();
}

}  // namespace tocsin
