// YamlTree: a YAML document as a compact read-only tree that knows where everything stood.
//
// Built from yaml-cpp's parser events, never from its node tree (measured for 100,000 triggers:
// 16 MB against 1.1 GB). Hostile input costs bounded memory and stack: the text, the depth and the
// nodes that aliases expand to have limits. Tags and second documents are refused.
//
// Threading: immutable after Parse(). Lifetime: a YamlNode lives no longer than its tree.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tocsin {

struct YamlLimits {
  std::size_t text_bytes_max = std::size_t{64} << 20;
  std::size_t depth_max = 64;
  std::size_t alias_nodes_max = 10'000;
};

struct YamlLocation {
  std::uint32_t line = 1;
  std::uint32_t column = 1;

  friend bool operator==(const YamlLocation&, const YamlLocation&) = default;
};

struct YamlFault {
  YamlLocation location;
  std::string message;
};

enum class YamlKind : std::uint8_t { kNull, kScalar, kList, kMap };

class YamlNode;

class YamlTree {
 public:
  // nullopt: the tree holds the document. Otherwise what is wrong and where.
  std::optional<YamlFault> Parse(std::string_view text, const YamlLimits& limits);

  // kNull for an empty document.
  YamlNode root() const;

 private:
  friend class YamlNode;
  friend class YamlTreeBuilder;

  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  struct Node {
    std::uint32_t text = 0;  // offset into text_
    std::uint32_t text_bytes = 0;
    std::uint32_t first = kNone;  // child; of a map: key, value, key, value
    std::uint32_t next = kNone;   // sibling
    YamlLocation location;
    YamlKind kind = YamlKind::kNull;
    bool plain = true;  // not in quotes
  };

  std::vector<Node> nodes_;
  std::string text_;
};

struct YamlEntry;

class YamlNode {
 public:
  YamlNode() = default;  // absent

  bool present() const { return tree_ != nullptr; }
  YamlKind kind() const { return node().kind; }
  bool plain() const { return node().plain; }
  YamlLocation location() const { return node().location; }
  std::string_view text() const {  // of a scalar
    return std::string_view(tree_->text_).substr(node().text, node().text_bytes);
  }

  std::vector<YamlNode> Elements() const;  // of a list; else none
  std::vector<YamlEntry> Entries() const;  // of a map; else none

 private:
  friend class YamlTree;
  YamlNode(const YamlTree* tree, std::uint32_t index) : tree_(tree), index_(index) {}
  const YamlTree::Node& node() const { return tree_->nodes_[index_]; }

  const YamlTree* tree_ = nullptr;
  std::uint32_t index_ = 0;
};

struct YamlEntry {
  YamlNode key;
  YamlNode value;
};

}  // namespace tocsin
