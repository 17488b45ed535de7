// Any bytes as what comes over the wire: requests of publishers and frames of workers at the
// broker, deliveries at a worker. Refused, or taken with everything inside.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "broker/base/check.h"
#include "broker/server/publish_frames.h"
#include "dispatch/grpc/frames.h"
#include "sdk/cpp/delivery_frame.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto inside = [bytes](std::string_view part) {
    return part.empty() || (part.data() >= bytes.data() &&
                            part.data() + part.size() <= bytes.data() + bytes.size());
  };
  switch (data[0] % 3) {
    case 0: {
      tocsin::PublishFrame frame;
      if (!tocsin::DecodePublishRequest(bytes, 1000, frame).ok()) break;
      TOCSIN_CHECK(frame.events.size() <= 1000);
      for (const std::string_view event : frame.events) TOCSIN_CHECK(inside(event));
      break;
    }
    case 1: {
      const tocsin::WorkerFrameLimits limits;
      tocsin::WorkerFrame frame;
      if (!tocsin::DecodeWorkerFrame(bytes, limits, frame).ok()) break;
      for (const auto& range : frame.answers.acked) TOCSIN_CHECK(range.first <= range.last);
      if (frame.kind == tocsin::WorkerFrameKind::kHello) {
        static_cast<void>(tocsin::ValidateHello(frame, limits));
      }
      break;
    }
    default: {
      tocsin::sdk::internal::DeliveryFrame frame;
      if (!tocsin::sdk::internal::HasDeliveries(bytes) ||
          !tocsin::sdk::internal::ParseDeliveries(bytes, nullptr, &frame)) {
        break;
      }
      for (const auto& delivery : frame.deliveries) TOCSIN_CHECK(inside(delivery.event));
      for (const auto& name : frame.triggers) TOCSIN_CHECK(inside(name.name));
    }
  }
  return 0;
}
