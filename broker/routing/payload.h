// PathTree and PayloadReader: of an event's JSON payload, the parts that patterns name.
//
//   PathTree        all paths of all patterns, each with a number      data ─┬─ size      [1]
//                                                                     [0]   └─ items ─── sku [3]
//   PayloadReader   one payload: a tree of what stands at those paths, and nothing else
//
// A path is a list of names; a name with dots, in a pattern or in a payload, is several (`a.b` is
// `b` in `a`). Arrays add no step: what stands in an array stands at the array's path.
//
// A payload is JSON if its media type says so or is absent; any other text is a single string.
// It is read strictly: malformed UTF-8, lone surrogates, numbers beyond a double, nesting deeper
// than kJsonDepthMax make it unreadable as a whole, with the reason. A name that occurs twice in
// one object has no value that all readers agree on: the path is `kTwice` there.
//
// Threading: PathTree is immutable once built and shared; a PayloadReader belongs to one thread.
// Lifetime: what a reader shows lives until its next Read(), and no longer than the event's bytes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "broker/base/event.h"
#include "broker/routing/number.h"

namespace tocsin {

using PathId = std::uint32_t;
inline constexpr PathId kRootPath = 0;  // `data` itself
inline constexpr PathId kNoPath = 0xFFFFFFFF;

class PathTree {
 public:
  PathTree() { nodes_.emplace_back(); }

  // The path one name below `parent`, added if it is new. `name` has no dots.
  PathId Add(PathId parent, std::string_view name);
  // Values at this path are wanted.
  void Want(PathId path) { nodes_[path].wanted = true; }

  // kNoPath: no pattern names it.
  PathId Find(PathId parent, std::string_view name) const {
    const Node& node = nodes_[parent];
    if ((node.lengths & LengthBit(name)) == 0) return kNoPath;
    return Lookup(parent, name);
  }

  // False: `name` is none below `parent`, nor one of them with a dot and others behind it. Of most
  // that are none, by their lengths.
  bool MayBe(PathId parent, std::string_view name) const {
    const std::uint64_t length = LengthBit(name);
    const std::uint64_t lengths = nodes_[parent].lengths;
    if ((lengths & length) != 0) return true;
    return (lengths & (length - 1)) != 0 && name.find('.') != std::string_view::npos;
  }

  bool wanted(PathId path) const { return nodes_[path].wanted; }
  bool has_children(PathId path) const { return nodes_[path].lengths != 0; }
  std::size_t size() const { return nodes_.size(); }

 private:
  struct Node {
    std::uint64_t lengths = 0;  // of the children's names, a bit each; 63 stands for all above
    std::string_view name;
    PathId first = kNoPath;  // child
    PathId next = kNoPath;   // sibling
    std::uint32_t children = 0;
    bool wanted = false;
  };
  struct Key {
    PathId parent;
    std::string_view name;

    friend bool operator==(const Key&, const Key&) = default;
    template <typename H>
    friend H AbslHashValue(H state, const Key& key) {
      return H::combine(std::move(state), key.parent, key.name);
    }
  };

  static std::uint64_t LengthBit(std::string_view name) {
    return std::uint64_t{1} << (name.size() < 63 ? name.size() : 63);
  }

  PathId Lookup(PathId parent, std::string_view name) const {
    if (nodes_[parent].children <= kListedMax) {
      PathId child = nodes_[parent].first;
      while (child != kNoPath && nodes_[child].name != name) child = nodes_[child].next;
      return child;
    }
    const auto found = children_.find(Key{parent, name});
    return found == children_.end() ? kNoPath : found->second;
  }

  // So few names are faster compared than hashed.
  static constexpr std::uint32_t kListedMax = 8;

  std::vector<Node> nodes_;
  absl::flat_hash_map<Key, PathId> children_;
  std::deque<std::string> names_;  // what the keys point into
};

enum class ValueKind : std::uint8_t {
  kText,
  kNumber,
  kTrue,
  kFalse,
  kNull,
  kObject,  // edges: one per name that the tree has
  kArray,   // edges: one per element that has anything
  kTwice,   // the name occurs twice in its object
};

struct PayloadValue {
  ValueKind kind = ValueKind::kNull;
  bool dotted = false;  // an object that stands for a dot in a name
  PathId path = kRootPath;
  std::uint32_t first = 0;  // into edges
  std::uint32_t count = 0;
  std::string_view text;
  Number number;
};

class PayloadReader {
 public:
  explicit PayloadReader(const PathTree* paths = nullptr);
  ~PayloadReader();
  PayloadReader(PayloadReader&&) noexcept;
  PayloadReader& operator=(PayloadReader&&) noexcept;

  // Forgets the last event. Nothing is read until Load().
  void Reset(const PathTree* paths, const EventView* event) {
    paths_ = paths;
    event_ = event;
    state_ = State::kUnread;
  }

  // Reads the payload if that has not happened yet. False: it cannot be read, see reason().
  bool Load() {
    if (state_ == State::kUnread) Read();
    return state_ == State::kRead;
  }

  // After Load() gave true. nullptr: there is no payload, or nothing at any path.
  const PayloadValue* root() const { return has_root_ ? &values_.back() : nullptr; }
  const PayloadValue& value(std::uint32_t index) const { return values_[index]; }
  const PayloadValue& Edge(const PayloadValue& parent, std::uint32_t i) const {
    return values_[edges_[parent.first + i]];
  }
  // The value at `path` in an object; nullptr if it is not there.
  const PayloadValue* Child(const PayloadValue& object, PathId path) const;

  // Some name occurs twice in its object; of what Load() has read.
  bool ambiguous() const { return state_ == State::kRead && ambiguous_; }
  // The name at this path occurs twice in some object.
  bool OccursTwice(PathId path) const;

  // The values that are no objects and no arrays, in the order of the payload.
  const std::vector<std::uint32_t>& leaves() const { return leaves_; }

  const std::string& reason() const { return reason_; }

 private:
  enum class State : std::uint8_t { kUnread, kRead, kUnreadable };
  struct Texts;
  class Builder;
  friend class Builder;

  void Clear();
  void Read();
  void ReadJson(std::string_view json);
  // False: nothing was read; another reader of tokens may take it.
  template <typename Tokens>
  bool ReadTokens(Tokens& tokens, std::string_view json);

  const PathTree* paths_ = nullptr;
  const EventView* event_ = nullptr;
  State state_ = State::kUnread;
  bool has_root_ = false;
  bool ambiguous_ = false;
  std::vector<PayloadValue> values_;
  std::vector<std::uint32_t> edges_;
  std::vector<std::uint32_t> pending_;  // children of what is open
  std::vector<std::uint32_t> leaves_;
  std::deque<std::string> unescaped_;
  std::string reason_;
  std::unique_ptr<Texts> texts_;
};

}  // namespace tocsin
