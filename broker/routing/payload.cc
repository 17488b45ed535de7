#include "broker/routing/payload.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "broker/base/check.h"
#include "broker/base/event_json.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/routing/json_bitmap.h"
#include "broker/routing/json_tokens.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kNothing = 0xFFFFFFFF;

bool IsEmpty(const PayloadValue& value) {
  return (value.kind == ValueKind::kObject || value.kind == ValueKind::kArray) && value.count == 0;
}

}  // namespace

PathId PathTree::Add(PathId parent, std::string_view name) {
  if (const PathId known = Find(parent, name); known != kNoPath) return known;
  const auto path = static_cast<PathId>(nodes_.size());
  Node& added = nodes_.emplace_back();
  added.name = names_.emplace_back(name);
  added.next = std::exchange(nodes_[parent].first, path);
  ++nodes_[parent].children;
  nodes_[parent].lengths |= LengthBit(name);
  children_.emplace(Key{parent, added.name}, path);
  return path;
}

// Puts the tree together: children before their parents, so the root is the last value.
class PayloadReader::Builder {
 public:
  explicit Builder(PayloadReader& reader) : reader_(reader), paths_(*reader.paths_) {}

  bool wanted(PathId path) const { return paths_.wanted(path); }
  bool has_children(PathId path) const { return paths_.has_children(path); }
  bool MayBe(PathId object, std::string_view name) const { return paths_.MayBe(object, name); }

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

// Over the tokens of JsonBitmap or JsonTokens: fails where these do, and then nothing that was
// built counts.
template <typename Builder, typename Tokens>
class TokenWalk {
 public:
  TokenWalk(Builder& builder, Tokens& tokens, std::deque<std::string>& unescaped)
      : builder_(builder), tokens_(tokens), unescaped_(unescaped) {}

  // The whole text; kNothing if it has nothing at any path, or failed().
  std::uint32_t Document() {
    const std::uint32_t root = Value(kRootPath);
    failed_ = failed_ || !tokens_.at_end();
    return root;
  }

  bool failed() const { return failed_; }

 private:
  // One less than the scanner's limit: what is refused here, that one decides.
  static constexpr std::size_t kDepthMax = kJsonDepthMax - 1;

  struct MemberWalk {
    TokenWalk& walk;
    std::uint32_t operator()(PathId path) const { return walk.Value(path); }
    void Skip() const { walk.Pass(); }
  };

  std::uint32_t Fail() {
    failed_ = true;
    return kNothing;
  }

  void Pass() { failed_ = failed_ || !tokens_.Skip(kDepthMax - depth_); }

  std::uint32_t Value(PathId path) {
    switch (tokens_.First()) {
      case '{':
        if (!builder_.has_children(path)) break;
        return Object(path);
      case '[':
        return Array(path);
      case '"': {
        if (!builder_.wanted(path)) break;
        std::string_view text;
        if (!String(text)) return Fail();
        return builder_.Leaf(path, ValueKind::kText, text, {});
      }
      default:
        if (!builder_.wanted(path)) break;
        return Word(path);
    }
    Pass();
    return kNothing;
  }

  std::uint32_t Object(PathId path) {
    if (depth_ == kDepthMax) return Fail();
    ++depth_;
    const std::size_t mark = builder_.Open();
    tokens_.Step();
    if (!tokens_.Take('}')) {
      do {
        if constexpr (Tokens::kPassesMembers) {
          const auto wanted = [&](std::string_view name) { return builder_.MayBe(path, name); };
          if (!tokens_.PassMembers(wanted)) break;
        }
        std::string_view name;
        if (tokens_.First() != '"' || !String(name) || !tokens_.Take(':')) return Fail();
        builder_.Member(path, name, MemberWalk{*this});
        if (failed_) return kNothing;
      } while (tokens_.Take(','));
      if (!tokens_.Take('}')) return Fail();
    }
    --depth_;
    return builder_.CloseObject(path, mark);
  }

  std::uint32_t Array(PathId path) {
    if (depth_ == kDepthMax) return Fail();
    ++depth_;
    const std::size_t mark = builder_.Open();
    tokens_.Step();
    if (!tokens_.Take(']')) {
      do {
        builder_.Element(Value(path));
        if (failed_) return kNothing;
      } while (tokens_.Take(','));
      if (!tokens_.Take(']')) return Fail();
    }
    --depth_;
    return builder_.CloseArray(path, mark);
  }

  std::uint32_t Word(PathId path) {
    std::string_view word;
    if (tokens_.at_end() || !tokens_.Word(word)) return Fail();
    switch (word.front()) {
      case 't':
        return builder_.Leaf(path, ValueKind::kTrue, {}, {});
      case 'f':
        return builder_.Leaf(path, ValueKind::kFalse, {}, {});
      case 'n':
        return builder_.Leaf(path, ValueKind::kNull, {}, {});
      default: {
        const std::optional<Number> number = Number::Parse(word);
        if (!number) return Fail();
        return builder_.Leaf(path, ValueKind::kNumber, {}, *number);
      }
    }
  }

  bool String(std::string_view& text) {
    bool escaped = false;
    if (!tokens_.String(text, escaped)) return false;
    if (escaped) Unescape(text);
    return true;
  }

  void Unescape(std::string_view& text) {
    const std::string_view quoted(text.data() - 1, text.size() + 2);
    text = unescaped_.emplace_back(JsonString(JsonValue{JsonKind::kString, quoted}));
  }

  Builder& builder_;
  Tokens& tokens_;
  std::deque<std::string>& unescaped_;
  std::size_t depth_ = 0;
  bool failed_ = false;
};

// Over a text that JsonScanner found well-formed: for what JsonTokens refuses though it is JSON,
// such as nesting up to the limit.
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

}  // namespace

// Two ways to read the tokens of a text; the first one is faster and refuses more.
struct PayloadReader::Texts {
  JsonBitmap bitmap;
  JsonTokens tokens;
};

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

void PayloadReader::Clear() {
  values_.clear();
  edges_.clear();
  pending_.clear();
  leaves_.clear();
  unescaped_.clear();
  has_root_ = false;
  ambiguous_ = false;
}

void PayloadReader::Read() {
  Clear();
  reason_.clear();
  state_ = State::kRead;
  if (event_->data_kind == DataKind::kNone || event_->data_kind == DataKind::kProto) return;
  const std::string_view type = event_->Text("datacontenttype");
  if (type.empty() || IsJsonMediaType(type)) return ReadJson(event_->data);
  if (event_->data_kind != DataKind::kText || !paths_->wanted(kRootPath)) return;
  Builder(*this).Leaf(kRootPath, ValueKind::kText, event_->data, {});
  has_root_ = true;
}

template <typename Tokens>
bool PayloadReader::ReadTokens(Tokens& tokens, std::string_view json) {
  if (!tokens.Begin(json)) return false;
  Builder builder(*this);
  TokenWalk<Builder, Tokens> walk(builder, tokens, unescaped_);
  has_root_ = walk.Document() != kNothing;
  if (!walk.failed()) return true;
  Clear();
  return false;
}

void PayloadReader::ReadJson(std::string_view json) {
  if (texts_ == nullptr) texts_ = std::make_unique<Texts>();
  if (ReadTokens(texts_->bitmap, json) || ReadTokens(texts_->tokens, json)) return;
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
