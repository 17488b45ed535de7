#include "dispatch/grpc/outbox.h"

#include <algorithm>

#include "broker/base/check.h"
#include "dispatch/grpc/byte_buffer.h"
#include "dispatch/grpc/frames.h"

namespace tocsin {
namespace {

constexpr std::size_t kDeliveryOverhead = 64;  // what a delivery has beside its event, about

}  // namespace

Outbox::Frame& Outbox::OpenDeliveries() {
  if (!frames_.empty() && frames_.back().open) return frames_.back();
  Frame& frame = frames_.emplace_back();
  frame.kind = Kind::kDeliveries;
  frame.open = true;
  frame.bytes.assign(kFramePrefixBytes, '\0');
  return frame;
}

void Outbox::AddName(std::string& body, const OutgoingDelivery& delivery) {
  const std::uint32_t partition = delivery.id.partition.value();
  const std::uint32_t ordinal = delivery.id.trigger.value();
  if (!triggers_named_.emplace(partition, ordinal).second) return;
  AppendTriggerName(body, partition, ordinal, delivery.trigger_name);
}

void Outbox::AddDeliveries(std::string_view function,
                           std::span<const OutgoingDelivery> deliveries) {
  const auto next = static_cast<std::uint32_t>(functions_.size());
  const auto [entry, is_new] = functions_.try_emplace(std::string(function), next);
  if (is_new) AppendFunctionName(OpenDeliveries().bytes, entry->second, function);
  std::size_t left = 0;  // bytes to come, about
  const auto bytes_of = [&](const OutgoingDelivery& one) {
    const bool alone = one.event.size() > limits_.frame_bytes_max;
    return kDeliveryOverhead + (alone ? 0 : one.event.size());
  };
  for (const OutgoingDelivery& one : deliveries) left += bytes_of(one);
  for (const OutgoingDelivery& delivery : deliveries) {
    const bool alone = delivery.event.size() > limits_.frame_bytes_max;
    // Names go into the frame before when the delivery itself gets one of its own.
    if (alone || (!frames_.empty() && frames_.back().open &&
                  frames_.back().bytes.size() + delivery.event.size() > limits_.frame_bytes_max)) {
      if (!frames_.empty()) frames_.back().open = false;
    }
    Frame& frame = OpenDeliveries();
    frame.bytes.reserve(std::min(frame.bytes.size() + left, limits_.frame_bytes_target));
    left -= bytes_of(delivery);
    AddName(frame.bytes, delivery);
    AppendDelivery(frame.bytes, delivery, entry->second, !alone);
    if (alone) {
      frame.tail = delivery.event;
      frame.tail_keep_alive = delivery.keep_alive;
    }
    if (alone || frame.bytes.size() >= limits_.frame_bytes_target) frame.open = false;
  }
}

void Outbox::AddCancel(std::span<const std::uint64_t> handles) {
  if (handles.empty()) return;
  if (frames_.empty() || frames_.back().kind != Kind::kCancel) {
    if (!frames_.empty()) frames_.back().open = false;
    frames_.emplace_back().kind = Kind::kCancel;
  }
  std::vector<std::uint64_t>& all = frames_.back().handles;
  all.insert(all.end(), handles.begin(), handles.end());
}

void Outbox::AddFrame(std::string frame) {
  if (!frames_.empty()) frames_.back().open = false;
  frames_.emplace_back().bytes = std::move(frame);
}

void Outbox::AddFirst(std::string frame) { frames_.emplace_front().bytes = std::move(frame); }

grpc::ByteBuffer Outbox::Take() {
  TOCSIN_CHECK(!empty());
  // A welcome, which has to be the first of all, is only ever at the front.
  const bool numbers_first = frames_.empty() || frames_.front().kind != Kind::kWhole;
  if (numbers_first && confirmed_) {
    const std::uint64_t sequence = *confirmed_;
    confirmed_.reset();
    return TakeByteBuffer(EncodeConfirmed(sequence));
  }
  if (numbers_first && refused_ > 0) {
    const std::uint64_t count = refused_;
    refused_ = 0;
    return TakeByteBuffer(EncodeRefused(count, "answers to deliveries that are not leased here"));
  }
  Frame frame = std::move(frames_.front());
  frames_.pop_front();
  switch (frame.kind) {
    case Kind::kWhole:
      return TakeByteBuffer(std::move(frame.bytes));
    case Kind::kCancel:
      return TakeByteBuffer(EncodeCancel(frame.handles));
    case Kind::kDeliveries:
      break;
  }
  const std::size_t begin = SealDeliveries(frame.bytes, frame.tail.size());
  grpc::Slice slices[2] = {TakeSlice(std::move(frame.bytes), begin), grpc::Slice()};
  if (frame.tail.empty()) return grpc::ByteBuffer(slices, 1);
  slices[1] = ReferToSlice(frame.tail, std::move(frame.tail_keep_alive));
  return grpc::ByteBuffer(slices, 2);
}

void Outbox::Clear() {
  frames_.clear();
  confirmed_.reset();
  refused_ = 0;
}

}  // namespace tocsin
