#include "sdk/cpp/delivery_frame.h"

namespace tocsin::sdk::internal {
namespace {

constexpr std::uint32_t kVarint = 0;
constexpr std::uint32_t kFixed64 = 1;
constexpr std::uint32_t kBytes = 2;
constexpr std::uint32_t kFixed32 = 5;
constexpr char kDeliveriesTag = (2 << 3) | kBytes;  // of BrokerFrame

// Fields of a protobuf message, one after the other.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  // The next field, its value in number() or bytes(). False: the end, or malformed; see ok().
  bool Next() {
    if (at_ == end_) return false;
    std::uint64_t tag = 0;
    ok_ = ReadVarint(&tag);
    field_ = static_cast<std::uint32_t>(tag >> 3);
    type_ = static_cast<std::uint32_t>(tag & 7);
    if (!ok_) return false;
    switch (type_) {
      case kVarint:
        ok_ = ReadVarint(&number_);
        break;
      case kBytes: {
        std::uint64_t size = 0;
        ok_ = ReadVarint(&size) && size <= static_cast<std::uint64_t>(end_ - at_);
        if (ok_) {
          bytes_ = std::string_view(at_, static_cast<std::size_t>(size));
          at_ += size;
        }
        break;
      }
      case kFixed64:
      case kFixed32: {
        const std::ptrdiff_t size = type_ == kFixed64 ? 8 : 4;
        ok_ = end_ - at_ >= size;
        at_ += ok_ ? size : 0;
        break;
      }
      default:
        ok_ = false;
    }
    return ok_;
  }

  bool ok() const { return ok_; }
  bool Is(std::uint32_t field, std::uint32_t type) const {
    return field_ == field && type_ == type;
  }
  std::uint32_t field() const { return type_ == kVarint ? field_ : 0; }  // of a number
  std::uint64_t number() const { return number_; }
  std::uint32_t number32() const { return static_cast<std::uint32_t>(number_); }
  std::string_view bytes() const { return bytes_; }

 private:
  bool ReadVarint(std::uint64_t* value) {
    std::uint64_t result = 0;
    for (unsigned shift = 0; shift < 70 && at_ != end_; shift += 7) {
      const auto byte = static_cast<unsigned char>(*at_++);
      result |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) {
        *value = result;
        return true;
      }
    }
    return false;
  }

  const char* at_;
  const char* end_;
  bool ok_ = true;
  std::uint32_t field_ = 0;
  std::uint32_t type_ = 0;
  std::uint64_t number_ = 0;
  std::string_view bytes_;
};

bool ParseDelivery(std::string_view bytes, Delivery* delivery) {
  Fields fields(bytes);
  while (fields.Next()) {
    if (fields.Is(11, kBytes)) {
      delivery->event = fields.bytes();
      continue;
    }
    switch (fields.field()) {
      case 1:
        delivery->handle = fields.number();
        break;
      case 2:
        delivery->token = fields.number();
        break;
      case 3:
        delivery->partition = fields.number32();
        break;
      case 4:
        delivery->offset = fields.number();
        break;
      case 5:
        delivery->trigger = fields.number32();
        break;
      case 6:
        delivery->run = fields.number32();
        break;
      case 7:
        delivery->attempt = fields.number32();
        break;
      case 8:
        delivery->lease_ms = fields.number32();
        break;
      case 9:
        delivery->recorded_us = static_cast<std::int64_t>(fields.number());
        break;
      case 10:
        delivery->function = fields.number32();
        break;
      default:
        break;
    }
  }
  return fields.ok();
}

bool ParseTriggerName(std::string_view bytes, DeliveryFrame::TriggerName* name) {
  Fields fields(bytes);
  while (fields.Next()) {
    if (fields.Is(1, kVarint)) name->partition = fields.number32();
    if (fields.Is(2, kVarint)) name->trigger = fields.number32();
    if (fields.Is(3, kBytes)) name->name = fields.bytes();
  }
  return fields.ok();
}

bool ParseFunctionName(std::string_view bytes, DeliveryFrame::FunctionName* name) {
  Fields fields(bytes);
  while (fields.Next()) {
    if (fields.Is(1, kVarint)) name->function = fields.number32();
    if (fields.Is(2, kBytes)) name->name = fields.bytes();
  }
  return fields.ok();
}

}  // namespace

bool HasDeliveries(std::string_view frame) {
  return !frame.empty() && frame.front() == kDeliveriesTag;
}

bool ParseDeliveries(std::string_view frame, const std::shared_ptr<const void>& keep_alive,
                     DeliveryFrame* deliveries) {
  deliveries->triggers.clear();
  deliveries->functions.clear();
  deliveries->deliveries.clear();
  const TimePoint now = std::chrono::steady_clock::now();
  Fields outer(frame);
  while (outer.Next()) {
    if (!outer.Is(2, kBytes)) continue;
    Fields inner(outer.bytes());
    while (inner.Next()) {
      bool ok = true;
      if (inner.Is(3, kBytes)) {
        Delivery& delivery = deliveries->deliveries.emplace_back();
        delivery.attempt = 0;
        delivery.frame = keep_alive;
        delivery.received = now;
        delivery.leased = now;
        ok = ParseDelivery(inner.bytes(), &delivery);
      } else if (inner.Is(1, kBytes)) {
        ok = ParseTriggerName(inner.bytes(), &deliveries->triggers.emplace_back());
      } else if (inner.Is(2, kBytes)) {
        ok = ParseFunctionName(inner.bytes(), &deliveries->functions.emplace_back());
      }
      if (!ok) return false;
    }
    if (!inner.ok()) return false;
  }
  return outer.ok();
}

}  // namespace tocsin::sdk::internal
