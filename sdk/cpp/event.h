// Event: a CloudEvent 1.0 as handlers read it and publishers build it.
//
// A delivered event stays in its encoded form until an accessor asks for more, so a handler that
// reads nothing pays nothing. Threading: a value; also const calls must not run concurrently on one
// object, because the first accessor decodes. Views live until the event is changed or destroyed.

#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace io::cloudevents::v1 {
class CloudEvent;
}

namespace tocsin::sdk {

class Event {
 public:
  Event();  // without attributes: what FromJson and FromEncoded fill
  // A new event with a random UUID as its id.
  Event(std::string_view type, std::string_view source);
  Event(const Event& other);
  Event(Event&& other) noexcept;
  Event& operator=(const Event& other);
  Event& operator=(Event&& other) noexcept;
  ~Event();

  // From the protobuf form (io.cloudevents.v1.CloudEvent). Decoding is put off; a form that cannot
  // be decoded reads as an event without attributes and `Valid()` is false.
  static Event FromEncoded(std::string encoded);
  // The same without a copy: `encoded` outlives the event (copies of the event own theirs).
  static Event Borrow(std::string_view encoded);

  // CloudEvents JSON. kInvalidArgument names what is wrong.
  static absl::StatusOr<Event> FromJson(std::string_view json);
  std::string ToJson() const;

  bool Valid() const;           // decodable, with id, source, type and specversion 1.0
  std::string Encoded() const;  // the protobuf form

  std::string_view id() const;
  std::string_view source() const;
  std::string_view type() const;
  std::string subject() const;            // empty: absent
  std::string time() const;               // RFC 3339; empty: absent
  std::string data_content_type() const;  // empty: absent
  // Any attribute but specversion in its canonical string form; nullopt when absent.
  std::optional<std::string> Attribute(std::string_view name) const;
  // All of them with id, source and type, sorted by name.
  std::vector<std::pair<std::string, std::string>> Attributes() const;

  std::string_view data() const;  // payload bytes, whatever their kind; empty: none
  bool has_data() const;

  Event& set_id(std::string_view value);
  Event& set_source(std::string_view value);
  Event& set_type(std::string_view value);
  Event& set_subject(std::string_view value);
  // An RFC 3339 text; one that is not is kept as a string attribute, which brokers refuse.
  Event& set_time(std::string_view rfc3339);
  Event& set_partition_key(std::string_view value);
  Event& SetAttribute(std::string_view name, std::string_view value);
  Event& SetAttribute(std::string_view name, const char* value);
  Event& SetAttribute(std::string_view name, std::int32_t value);
  Event& SetAttribute(std::string_view name, bool value);
  // Sets data and datacontenttype (empty: leaves it as it is).
  Event& SetText(std::string_view text, std::string_view content_type = "text/plain");
  Event& SetJson(std::string_view json);  // JSON text; application/json
  Event& SetBytes(std::string_view bytes,
                  std::string_view content_type = "application/octet-stream");

 private:
  using Message = ::io::cloudevents::v1::CloudEvent;
  const Message& message() const;
  Message& Mutable();

  std::string owned_;
  std::string_view encoded_;  // of owned_ or borrowed; the truth until message_ exists
  mutable std::unique_ptr<Message> message_;
  mutable bool decodable_ = true;
};

// A random version 4 UUID in its text form.
std::string NewUuid();

}  // namespace tocsin::sdk
