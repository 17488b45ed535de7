// What publishers hand in: batches, repeats, events for later, and streams whose order must survive
// refusals.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/time_text.h"
#include "tests/sim/broker_sim_world.h"

namespace tocsin::broker_sim {

void Sim::Publish() {
  if (!opened_) return;
  const std::uint64_t count = 1 + random_.Below(6);
  const std::uint64_t first_new = next_number_;
  std::map<std::uint32_t, PublishBatch> batches;
  std::map<std::uint32_t, std::vector<std::uint64_t>> numbers;
  auto keep = std::make_shared<std::deque<std::string>>();
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint64_t number = next_number_;
    if (dups_ && next_number_ > 0 && Chance(15)) {
      number = random_.Below(next_number_);
    } else {
      ++next_number_;
    }
    const std::uint64_t key = number * 2654435761u % (keys_ + 1);
    const std::string name = key == keys_ ? std::string() : fmt::format("k{}", key);
    std::string deliver_at;
    if (delays_ && number % 5 == 3) {
      const WallTime at = clock_.Wall() + std::chrono::milliseconds(random_.Below(4000));
      deliver_at = FormatRfc3339(at);
      const auto [known, fresh] = deliver_.try_emplace(number, at);
      if (!fresh) known->second = std::min(known->second, at);
    }
    const std::string_view type = number % 17 == 16 && poison_ ? "poison" : "plain";
    const std::string expires = ExpiryOf(number);
    keep->push_back(MakeEvent(number, name, type, expires, deliver_at));
    CheckContent(fmt::format("e{}", number), MakeEvent(number, name, type, expires));
    PublishedEvent event;
    PartitionId home;
    const absl::Status prepared =
        PreparePublished(keep->back(), EventLimits(), 16, 7, kPartitions, event, home);
    if (!prepared.ok()) {
      Fail(fmt::format("prepare: {}", MessageOf(prepared)));
      return;
    }
    event.index = static_cast<std::uint32_t>(i);
    batches[home.value()].bytes += event.bytes.size();
    batches[home.value()].events.push_back(std::move(event));
    numbers[home.value()].push_back(number);
  }
  for (auto& [home, batch] : batches) {
    batch.keep_alive = keep;
    batch.done = [this, mine = numbers[home], first = first_new, changes = api_changes_,
                  known = !api_busy_, matched = !api_told_.empty()](const PublishOutcome& outcome) {
      if (!outcome.status.ok()) return;
      for (const PublishVerdict& verdict : outcome.verdicts) {
        if (!verdict.refusal.ok()) return;  // nothing is known then of which
      }
      for (const std::uint64_t number : mine) {
        // What is to be delivered later is matched then.
        if (known && changes == api_changes_ && number >= first && !answered_.contains(number) &&
            !deliver_.contains(number)) {
          api_expected_[number] = matched;
        }
        answered_[number] = true;
      }
      result_.published += mine.size();
    };
    if (options_.canary == SimCanary::kAnswerEarly) {
      for (const std::uint64_t number : numbers[home]) answered_[number] = true;
    }
    (void)life_->shards.TryPublish(PartitionId(home), batch);
  }
}

// Of some; a repeat has the same.
std::string Sim::ExpiryOf(std::uint64_t number) {
  if (!expiry_ || number % 7 != 4) return "";
  const auto [known, fresh] = expires_.try_emplace(number);
  if (fresh) {
    known->second = FormatRfc3339(clock_.Wall() + std::chrono::milliseconds(random_.Below(8000)));
  }
  return known->second;
}

// As a publisher of an SDK: when nothing is in flight any more, what was refused goes again, in
// order and before anything newer.
void Sim::PublishInStream(SimStream& stream) {
  if (!opened_) return;
  using State = SimStream::State;
  std::deque<SimStream::Item>& items = stream.items;
  if (stream.order == nullptr) {  // a new connection: what was not answered goes again
    stream.order = std::make_shared<StreamOrder>(kPartitions);
    for (SimStream::Item& item : items) item.state = State::kWaits;
    stream.answers.clear();
  }
  if (quiet_ || Chance(60)) HearInStream(stream);
  const auto in_flight = [&](const SimStream::Item& item) { return item.state == State::kSent; };
  const auto refused = [&](const SimStream::Item& item) { return item.state == State::kRefused; };
  if (std::any_of(items.begin(), items.end(), refused)) {
    if (std::any_of(items.begin(), items.end(), in_flight)) return;
    stream.order->Reset();
  } else if (!quiet_ && items.size() < 20) {
    for (std::uint64_t i = random_.Below(4); i > 0; --i) {
      stream.sent.push_back(next_stream_number_);
      items.push_back({next_stream_number_++, State::kWaits});
    }
  }
  std::vector<std::uint64_t> now;
  for (SimStream::Item& item : items) {
    if (item.state == State::kSent) continue;
    item.state = State::kSent;
    now.push_back(item.number);
  }
  for (const std::uint64_t number : now) SendInStream(stream, number);
}

void Sim::SendInStream(SimStream& stream, std::uint64_t number) {
  if (options_.trace) fmt::print("  send e{}\n", number);
  if (quiet_) late_repeats_.insert(number);
  auto keep = std::make_shared<std::string>(
      MakeEvent(number, fmt::format("k{}", number % 2), "plain", ExpiryOf(number)));
  PublishBatch batch;
  PublishedEvent event;
  PartitionId home;
  const absl::Status prepared =
      PreparePublished(*keep, EventLimits(), 16, 7, kPartitions, event, home);
  if (!prepared.ok()) return Fail(fmt::format("prepare: {}", MessageOf(prepared)));
  batch.keep_alive = keep;
  batch.bytes = event.bytes.size();
  batch.events.push_back(std::move(event));
  batch.done = [&stream, number, life = result_.crashes, this](const PublishOutcome& outcome) {
    if (life != result_.crashes) return;
    const bool refused =
        !outcome.status.ok() || std::any_of(outcome.verdicts.begin(), outcome.verdicts.end(),
                                            [](const auto& one) { return !one.refusal.ok(); });
    stream.answers.emplace_back(number, !refused);
  };
  batch.order = stream.order;
  batch.order_epoch = stream.order->epoch();
  if (!stream.order->IsRefusing(home)) {
    if (life_->shards.TryPublish(home, batch).ok()) return;
    stream.order->Refuse(home);
  }
  stream.answers.emplace_back(number, false);
}

void Sim::HearInStream(SimStream& stream) {
  for (const auto& [number, taken] : std::exchange(stream.answers, {})) {
    if (options_.trace) fmt::print("  e{} is {}\n", number, taken ? "taken" : "refused");
    const auto item =
        std::find_if(stream.items.begin(), stream.items.end(),
                     [sought = number](const auto& one) { return one.number == sought; });
    if (!taken) {
      item->state = SimStream::State::kRefused;
      ++result_.refused;
      continue;
    }
    stream.items.erase(item);
    answered_[number] = true;
    ++result_.published;
  }
}

// What of a stream is in a partition's log is there in the order it was sent in. `places` are those
// of the events' first records in one partition.
void Sim::CheckStreams(const std::map<std::uint64_t, std::uint64_t>& places) {
  if (log_damaged_) return;
  for (const SimStream& stream : streams_) {
    std::uint64_t before = 0;
    for (const std::uint64_t number : stream.sent) {
      const auto place = places.find(number);
      if (place == places.end()) continue;
      Checked(SimCheck::kStreamOrder);
      if (place->second < before) {
        return Fail(fmt::format("e{} of a stream lies at {}, what was sent before it at {}", number,
                                place->second, before));
      }
      before = place->second;
    }
  }
}

}  // namespace tocsin::broker_sim
