// AttributeText: an attribute's canonical string, without an allocation for all kinds but binary
// and timestamp.

#pragma once

#include <charconv>
#include <string>
#include <string_view>

#include "broker/base/event.h"

namespace tocsin {

// Lives no longer than the event's bytes. Not copyable: text() may point into the object.
class AttributeText {
 public:
  AttributeText(const EventView& event, std::string_view name) {
    if (name == "type") {
      Set(event.type);
    } else if (name == "source") {
      Set(event.source);
    } else if (name == "id") {
      Set(event.id);
    } else if (name == "specversion") {
      Set(event.spec_version);
    } else if (const AttributeView* attribute = event.Find(name)) {
      Set(*attribute);
    }
  }
  explicit AttributeText(const AttributeView& attribute) { Set(attribute); }

  AttributeText(const AttributeText&) = delete;
  AttributeText& operator=(const AttributeText&) = delete;

  bool present() const { return present_; }
  std::string_view text() const { return text_; }

 private:
  void Set(std::string_view text) {
    present_ = true;
    text_ = text;
  }

  void Set(const AttributeView& attribute) {
    switch (attribute.kind) {
      case AttributeKind::kString:
      case AttributeKind::kUri:
      case AttributeKind::kUriReference:
        Set(attribute.text);
        return;
      case AttributeKind::kBoolean:
        Set(attribute.integer != 0 ? "true" : "false");
        return;
      case AttributeKind::kInteger: {
        const auto [end, error] =
            std::to_chars(number_, number_ + sizeof number_, attribute.integer);
        Set(std::string_view(number_, static_cast<std::size_t>(end - number_)));
        return;
      }
      case AttributeKind::kBinary:
      case AttributeKind::kTimestamp:
        owned_ = CanonicalValue(attribute);
        Set(owned_);
        return;
    }
  }

  bool present_ = false;
  std::string_view text_;
  char number_[24];
  std::string owned_;
};

}  // namespace tocsin
