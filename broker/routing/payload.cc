#include "broker/routing/payload.h"

#include <simdjson.h>

#include <algorithm>
#include <cstring>

#include "absl/container/inlined_vector.h"
#include "broker/base/check.h"
#include "broker/base/event_json.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kNothing = 0xFFFFFFFF;
// What a reader keeps between events; a larger payload's memory is given back.
constexpr std::size_t kKeptBytesMax = 256 * 1024;

bool IsEmpty(const PayloadValue& value) {
  return (value.kind == ValueKind::kObject || value.kind == ValueKind::kArray) && value.count == 0;
}

}  // namespace

PathId PathTree::Add(PathId parent, std::string_view name) {
  if (const PathId known = Find(parent, name); known != kNoPath) return known;
  const auto path = static_cast<PathId>(nodes_.size());
  nodes_.emplace_back();
  nodes_[parent].lengths |= std::uint64_t{1} << std::min<std::size_t>(name.size(), 63);
  children_.emplace(Key{parent, names_.emplace_back(name)}, path);
  return path;
}

struct PayloadReader::Parser {
  simdjson::dom::parser dom;
  std::unique_ptr<char[]> padded;
  std::size_t capacity = 0;

  void Reserve(std::size_t bytes) {
    if (capacity > kKeptBytesMax && bytes <= kKeptBytesMax) *this = Parser();
    if (bytes <= capacity) return;
    capacity = std::max<std::size_t>(bytes, 4096);
    padded = std::make_unique<char[]>(capacity + simdjson::SIMDJSON_PADDING);
    // One less than the scanner's limit: what this one refuses, that one decides.
    TOCSIN_CHECK(dom.allocate(capacity, kJsonDepthMax - 1) == simdjson::SUCCESS);
  }
};

// Puts the tree together: children before their parents, so the root is the last value.
class PayloadReader::Builder {
 public:
  explicit Builder(PayloadReader& reader) : reader_(reader), paths_(*reader.paths_) {}

  bool wanted(PathId path) const { return paths_.wanted(path); }
  bool has_children(PathId path) const { return paths_.has_children(path); }

  std::uint32_t Leaf(PathId path, ValueKind kind, std::string_view text, Number number) {
    const std::uint32_t index = Add({kind, false, path, 0, 0, text, number});
    reader_.leaves_.push_back(index);
    return index;
  }

  std::size_t Open() const { return reader_.pending_.size(); }

  // `walk` gives the member's value for the path it is told.
  template <typename Walk>
  void Member(PathId object, std::string_view name, const Walk& walk) {
    const PathId path = paths_.Find(object, name);
    if (path != kNoPath) {
      reader_.pending_.push_back(OrEmpty(walk(path), path));
      return;
    }
    if (name.find('.') == std::string_view::npos) return walk.Skip();
    absl::InlinedVector<PathId, 8> way = {object};
    for (std::string_view rest = name;;) {
      const std::size_t dot = rest.find('.');
      way.push_back(paths_.Find(way.back(), rest.substr(0, dot)));
      if (way.back() == kNoPath) return walk.Skip();
      if (dot == std::string_view::npos) break;
      rest.remove_prefix(dot + 1);
    }
    std::uint32_t index = OrEmpty(walk(way.back()), way.back());
    for (std::size_t i = way.size() - 2; i > 0; --i) {
      const bool empty = IsEmpty(reader_.values_[index]);
      const auto first = static_cast<std::uint32_t>(reader_.edges_.size());
      if (!empty) reader_.edges_.push_back(index);
      index = Add({ValueKind::kObject, true, way[i], first, empty ? 0u : 1u, {}, {}});
    }
    reader_.pending_.push_back(index);
  }

  std::uint32_t CloseObject(PathId path, std::size_t mark) {
    std::vector<std::uint32_t>& pending = reader_.pending_;
    SortByPath(pending, mark);
    const std::size_t kept = Unite(pending, mark);
    return Close(ValueKind::kObject, path, mark, kept);
  }

  std::uint32_t CloseArray(PathId path, std::size_t mark) {
    return Close(ValueKind::kArray, path, mark, reader_.pending_.size());
  }

  void Element(std::uint32_t index) {
    if (index != kNothing) reader_.pending_.push_back(index);
  }

 private:
  std::uint32_t Add(const PayloadValue& value) {
    reader_.values_.push_back(value);
    return static_cast<std::uint32_t>(reader_.values_.size() - 1);
  }

  // A name that is there without a value of interest still makes a second one a repetition.
  std::uint32_t OrEmpty(std::uint32_t index, PathId path) {
    return index != kNothing ? index : Add({ValueKind::kObject, false, path, 0, 0, {}, {}});
  }

  void SortByPath(std::vector<std::uint32_t>& list, std::size_t mark) const {
    const auto less = [this](std::uint32_t a, std::uint32_t b) {
      return reader_.values_[a].path < reader_.values_[b].path;
    };
    const auto begin = list.begin() + static_cast<std::ptrdiff_t>(mark);
    if (!std::is_sorted(begin, list.end(), less)) std::stable_sort(begin, list.end(), less);
  }

  // Makes one of the values that have the same path and drops those with nothing in them.
  std::size_t Unite(std::vector<std::uint32_t>& list, std::size_t mark) {
    std::size_t out = mark;
    for (std::size_t i = mark; i < list.size();) {
      std::size_t end = i + 1;
      const PathId path = reader_.values_[list[i]].path;
      while (end < list.size() && reader_.values_[list[end]].path == path) ++end;
      const std::uint32_t index = end == i + 1 ? list[i] : UniteGroup(list, i, end, path);
      if (!IsEmpty(reader_.values_[index])) list[out++] = index;
      i = end;
    }
    list.resize(out);
    return out;
  }

  // One name written out and any number that were dotted are one object; all else is ambiguous.
  std::uint32_t UniteGroup(const std::vector<std::uint32_t>& list, std::size_t from,
                           std::size_t end, PathId path) {
    std::size_t written = 0;
    bool objects = true;
    std::vector<std::uint32_t> children;
    for (std::size_t i = from; i < end; ++i) {
      const PayloadValue& value = reader_.values_[list[i]];
      if (!value.dotted) ++written;
      objects = objects && value.kind == ValueKind::kObject;
      if (!objects) break;
      const auto first = reader_.edges_.begin() + value.first;
      children.insert(children.end(), first, first + value.count);
    }
    if (!objects || written > 1) {
      reader_.ambiguous_ = true;
      return Add({ValueKind::kTwice, false, path, 0, 0, {}, {}});
    }
    SortByPath(children, 0);
    Unite(children, 0);
    const auto first = static_cast<std::uint32_t>(reader_.edges_.size());
    reader_.edges_.insert(reader_.edges_.end(), children.begin(), children.end());
    return Add({ValueKind::kObject,
                written == 0,
                path,
                first,
                static_cast<std::uint32_t>(children.size()),
                {},
                {}});
  }

  std::uint32_t Close(ValueKind kind, PathId path, std::size_t mark, std::size_t end) {
    std::vector<std::uint32_t>& pending = reader_.pending_;
    if (end == mark) {
      pending.resize(mark);
      return kNothing;
    }
    const auto first = static_cast<std::uint32_t>(reader_.edges_.size());
    const auto begin = pending.begin() + static_cast<std::ptrdiff_t>(mark);
    reader_.edges_.insert(reader_.edges_.end(), begin,
                          pending.begin() + static_cast<std::ptrdiff_t>(end));
    pending.resize(mark);
    return Add({kind, false, path, first, static_cast<std::uint32_t>(end - mark), {}, {}});
  }

  PayloadReader& reader_;
  const PathTree& paths_;
};

namespace {

// Over a tree that simdjson found well-formed.
template <typename Builder>
class DomWalk {
 public:
  explicit DomWalk(Builder& builder) : builder_(builder) {}

  std::uint32_t Value(simdjson::dom::element element, PathId path) {
    using Type = simdjson::dom::element_type;
    switch (element.type()) {
      case Type::OBJECT: {
        if (!builder_.has_children(path)) return kNothing;
        const std::size_t mark = builder_.Open();
        const simdjson::dom::object object = element.get_object().value_unsafe();
        for (const simdjson::dom::key_value_pair field : object) {
          builder_.Member(path, field.key, MemberWalk{*this, field.value});
        }
        return builder_.CloseObject(path, mark);
      }
      case Type::ARRAY: {
        const std::size_t mark = builder_.Open();
        const simdjson::dom::array array = element.get_array().value_unsafe();
        for (const simdjson::dom::element part : array) {
          builder_.Element(Value(part, path));
        }
        return builder_.CloseArray(path, mark);
      }
      default:
        return builder_.wanted(path) ? Scalar(element, path) : kNothing;
    }
  }

 private:
  struct MemberWalk {
    DomWalk& walk;
    simdjson::dom::element value;

    std::uint32_t operator()(PathId path) const { return walk.Value(value, path); }
    void Skip() const {}
  };

  std::uint32_t Scalar(simdjson::dom::element element, PathId path) {
    using Type = simdjson::dom::element_type;
    switch (element.type()) {
      case Type::STRING:
        return builder_.Leaf(path, ValueKind::kText, element.get_string().value_unsafe(), {});
      case Type::INT64:
        return builder_.Leaf(path, ValueKind::kNumber, {},
                             Number::Of(element.get_int64().value_unsafe()));
      case Type::UINT64:
        return builder_.Leaf(path, ValueKind::kNumber, {},
                             Number::Of(static_cast<double>(element.get_uint64().value_unsafe())));
      case Type::DOUBLE:
        return builder_.Leaf(path, ValueKind::kNumber, {},
                             Number::Of(element.get_double().value_unsafe()));
      case Type::BOOL:
        return builder_.Leaf(
            path, element.get_bool().value_unsafe() ? ValueKind::kTrue : ValueKind::kFalse, {}, {});
      default:
        return builder_.Leaf(path, ValueKind::kNull, {}, {});
    }
  }

  Builder& builder_;
};

// Over a text that JsonScanner found well-formed: for what simdjson refuses though it is JSON, such
// as integers of more than 64 bits.
template <typename Builder>
class TextWalk {
 public:
  TextWalk(Builder& builder, std::string_view json, std::deque<std::string>& unescaped)
      : builder_(builder), json_(json), unescaped_(unescaped) {}

  std::uint32_t Value(PathId path) {
    SkipSpace();
    switch (json_[position_]) {
      case '{':
        return Object(path);
      case '[': {
        const std::size_t mark = builder_.Open();
        ++position_;
        for (SkipSpace(); json_[position_] != ']'; SkipSpace()) {
          if (json_[position_] == ',') ++position_;
          builder_.Element(Value(path));
        }
        ++position_;
        return builder_.CloseArray(path, mark);
      }
      case '"': {
        const std::string_view text = String();
        return builder_.wanted(path) ? builder_.Leaf(path, ValueKind::kText, text, {}) : kNothing;
      }
      default: {
        const std::string_view word = Word();
        if (!builder_.wanted(path)) return kNothing;
        switch (word.front()) {
          case 't':
            return builder_.Leaf(path, ValueKind::kTrue, {}, {});
          case 'f':
            return builder_.Leaf(path, ValueKind::kFalse, {}, {});
          case 'n':
            return builder_.Leaf(path, ValueKind::kNull, {}, {});
          default: {
            const std::optional<Number> number = Number::Parse(word);
            TOCSIN_CHECK(number.has_value(), "{}", word.substr(0, 64));
            return builder_.Leaf(path, ValueKind::kNumber, {}, *number);
          }
        }
      }
    }
  }

 private:
  struct MemberWalk {
    TextWalk& walk;
    std::uint32_t operator()(PathId path) const { return walk.Value(path); }
    void Skip() const { walk.SkipValue(); }
  };

  std::uint32_t Object(PathId path) {
    if (!builder_.has_children(path)) {
      SkipValue();
      return kNothing;
    }
    const std::size_t mark = builder_.Open();
    ++position_;
    for (SkipSpace(); json_[position_] != '}'; SkipSpace()) {
      if (json_[position_] == ',') ++position_;
      SkipSpace();
      const std::string_view name = String();
      SkipSpace();
      ++position_;  // the colon
      builder_.Member(path, name, MemberWalk{*this});
    }
    ++position_;
    return builder_.CloseObject(path, mark);
  }

  void SkipSpace() {
    while (json_[position_] == ' ' || json_[position_] == '\t' || json_[position_] == '\n' ||
           json_[position_] == '\r') {
      ++position_;
    }
  }

  std::string_view RawString() {
    const std::size_t start = position_;
    for (++position_; json_[position_] != '"'; ++position_) {
      if (json_[position_] == '\\') ++position_;
    }
    ++position_;
    return json_.substr(start, position_ - start);
  }

  std::string_view String() {
    const std::string_view raw = RawString();
    if (raw.find('\\') == std::string_view::npos) return raw.substr(1, raw.size() - 2);
    return unescaped_.emplace_back(JsonString(JsonValue{JsonKind::kString, raw}));
  }

  std::string_view Word() {
    const std::size_t start = position_;
    position_ = std::min(json_.find_first_of(",]} \t\r\n", position_), json_.size());
    return json_.substr(start, position_ - start);
  }

  void SkipValue() {
    SkipSpace();
    std::size_t depth = 0;
    do {
      const char c = json_[position_];
      if (c == '"') {
        RawString();
        continue;
      }
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (depth == 0 && c != '}' && c != ']') {
        Word();
      } else {
        ++position_;
      }
    } while (depth > 0);
  }

  Builder& builder_;
  std::string_view json_;
  std::deque<std::string>& unescaped_;
  std::size_t position_ = 0;
};

// A surrogate written as an escape: simdjson lets a lone low one pass.
bool MayHaveSurrogate(std::string_view json) {
  const char* slash = static_cast<const char*>(std::memchr(json.data(), '\\', json.size()));
  if (slash == nullptr) return false;
  json.remove_prefix(static_cast<std::size_t>(slash - json.data()));
  return json.find("\\ud") != std::string_view::npos || json.find("\\uD") != std::string_view::npos;
}

}  // namespace

PayloadReader::PayloadReader(const PathTree* paths) : paths_(paths) {}
PayloadReader::~PayloadReader() = default;
PayloadReader::PayloadReader(PayloadReader&&) noexcept = default;
PayloadReader& PayloadReader::operator=(PayloadReader&&) noexcept = default;

const PayloadValue* PayloadReader::Child(const PayloadValue& object, PathId path) const {
  const std::uint32_t* const begin = edges_.data() + object.first;
  const std::uint32_t* const end = begin + object.count;
  const auto less = [this](std::uint32_t index, PathId wanted) {
    return values_[index].path < wanted;
  };
  const std::uint32_t* const found = std::lower_bound(begin, end, path, less);
  return found != end && values_[*found].path == path ? &values_[*found] : nullptr;
}

bool PayloadReader::OccursTwice(PathId path) const {
  return std::any_of(values_.begin(), values_.end(), [path](const PayloadValue& value) {
    return value.kind == ValueKind::kTwice && value.path == path;
  });
}

void PayloadReader::Read() {
  values_.clear();
  edges_.clear();
  pending_.clear();
  leaves_.clear();
  unescaped_.clear();
  reason_.clear();
  has_root_ = false;
  ambiguous_ = false;
  state_ = State::kRead;
  if (event_->data_kind == DataKind::kNone || event_->data_kind == DataKind::kProto) return;
  const std::string_view type = event_->Text("datacontenttype");
  if (type.empty() || IsJsonMediaType(type)) return ReadJson(event_->data);
  if (event_->data_kind != DataKind::kText || !paths_->wanted(kRootPath)) return;
  Builder(*this).Leaf(kRootPath, ValueKind::kText, event_->data, {});
  has_root_ = true;
}

void PayloadReader::ReadJson(std::string_view json) {
  if (!MayHaveSurrogate(json)) {
    if (parser_ == nullptr) parser_ = std::make_unique<Parser>();
    parser_->Reserve(json.size());
    json.copy(parser_->padded.get(), json.size());
    simdjson::dom::element root;
    if (parser_->dom.parse(parser_->padded.get(), json.size(), false).get(root) ==
        simdjson::SUCCESS) {
      Builder builder(*this);
      has_root_ = DomWalk<Builder>(builder).Value(root, kRootPath) != kNothing;
      return;
    }
  }
  JsonValue value;
  const absl::Status status =
      JsonScanner(json, kJsonDepthMax, JsonNames::kMayRepeat).ReadDocument(value);
  if (!status.ok()) {
    state_ = State::kUnreadable;
    reason_ = std::string(MessageOf(status));
    return;
  }
  Builder builder(*this);
  // Nothing follows the value, so that a number at the root has an end.
  has_root_ = TextWalk<Builder>(builder, value.raw, unescaped_).Value(kRootPath) != kNothing;
}

}  // namespace tocsin
