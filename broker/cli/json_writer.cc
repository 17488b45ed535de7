#include "broker/cli/json_writer.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/json_scan.h"

namespace tocsin::cli {

void JsonWriter::Begin() {
  if (after_key_) {
    after_key_ = false;
    return;
  }
  if (levels_.empty()) return;
  Level& level = levels_.back();
  if (!level.empty) out_ += level.lines ? "," : ", ";
  if (level.lines) out_ += '\n' + std::string(levels_.size() * 2, ' ');
  level.empty = false;
}

void JsonWriter::Open(char open, char close) {
  Begin();
  out_ += open;
  // The document's own members or elements, and the elements of an array among its members, stand
  // on lines of their own.
  const bool lines =
      layout_ == Layout::kLines && (levels_.empty() || (levels_.size() == 1 && close == ']'));
  levels_.push_back({close, true, lines});
}

JsonWriter& JsonWriter::Object() {
  Open('{', '}');
  return *this;
}

JsonWriter& JsonWriter::Array() {
  Open('[', ']');
  return *this;
}

JsonWriter& JsonWriter::End() {
  TOCSIN_CHECK(!levels_.empty() && !after_key_);
  const Level level = levels_.back();
  levels_.pop_back();
  if (level.lines && !level.empty) out_ += '\n' + std::string(levels_.size() * 2, ' ');
  out_ += level.close;
  if (levels_.empty()) out_ += '\n';
  return *this;
}

JsonWriter& JsonWriter::Key(std::string_view name) {
  TOCSIN_CHECK(!levels_.empty() && levels_.back().close == '}' && !after_key_);
  Begin();
  AppendJsonString(out_, name);
  out_ += ": ";
  after_key_ = true;
  return *this;
}

JsonWriter& JsonWriter::Value(std::string_view text) {
  Begin();
  AppendJsonString(out_, text);
  return *this;
}

JsonWriter& JsonWriter::Value(bool value) { return Raw(value ? "true" : "false"); }

JsonWriter& JsonWriter::Value(double value) {
  return std::isfinite(value) ? Raw(fmt::format("{}", value)) : Null();
}

JsonWriter& JsonWriter::Number(std::string_view digits) { return Raw(digits); }

JsonWriter& JsonWriter::Null() { return Raw("null"); }

JsonWriter& JsonWriter::Raw(std::string_view json) {
  Begin();
  out_ += json;
  return *this;
}

std::string JsonWriter::Take() { return std::exchange(out_, {}); }

}  // namespace tocsin::cli
