#include "broker/config/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <exception>
#include <istream>
#include <streambuf>

#include "absl/container/flat_hash_map.h"

namespace tocsin {
namespace {

// Reads where the text lies; std::istringstream would copy it.
class ViewBuffer : public std::streambuf {
 public:
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());  // only read: there is no put area
    setg(begin, begin, begin + text.size());
  }
};

YamlLocation LocationOf(const YAML::Mark& mark) {
  // yaml-cpp's null mark is -1.
  return {static_cast<std::uint32_t>(mark.line < 0 ? 0 : mark.line) + 1,
          static_cast<std::uint32_t>(mark.column < 0 ? 0 : mark.column) + 1};
}

}  // namespace

// After the first fault it ignores what the parser still says.
class YamlTreeBuilder : public YAML::EventHandler {
 public:
  YamlTreeBuilder(YamlTree& tree, const YamlLimits& limits) : tree_(tree), limits_(limits) {}

  std::optional<YamlFault> TakeFault() { return std::move(fault_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (fault_) return;
    Remember(anchor, Add(YamlKind::kNull, LocationOf(mark)));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    if (fault_ || RefuseTag(mark, tag)) return;
    const std::uint32_t index = Add(YamlKind::kScalar, LocationOf(mark));
    YamlTree::Node& node = tree_.nodes_[index];
    node.text = Intern(value);
    node.text_bytes = static_cast<std::uint32_t>(value.size());
    node.plain = tag == "?" || tag.empty();
    Remember(anchor, index);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (fault_) return;
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end() || IsOpen(found->second)) {
      Fail(LocationOf(mark), "the alias refers to a value that is not complete");
      return;
    }
    Copy(found->second, LocationOf(mark));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(YamlKind::kList, mark, tag, anchor);
  }
  void OnSequenceEnd() override { Close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(YamlKind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { Close(); }

 private:
  struct Frame {
    std::uint32_t index;
    std::uint32_t last = YamlTree::kNone;
  };

  void Fail(YamlLocation location, std::string message) {
    if (!fault_) fault_ = YamlFault{location, std::move(message)};
  }

  bool RefuseTag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return false;
    Fail(LocationOf(mark), "YAML tags are not supported");
    return true;
  }

  // The key words of a large file repeat; their text is kept once.
  std::uint32_t Intern(const std::string& value) {
    constexpr std::size_t kShort = 32;
    constexpr std::size_t kWordsMax = 4096;
    if (value.size() <= kShort) {
      const auto found = words_.find(value);
      if (found != words_.end()) return found->second;
    }
    const auto offset = static_cast<std::uint32_t>(tree_.text_.size());
    tree_.text_ += value;
    if (value.size() <= kShort && words_.size() < kWordsMax) words_.emplace(value, offset);
    return offset;
  }

  std::uint32_t Add(YamlKind kind, YamlLocation location) {
    const auto index = static_cast<std::uint32_t>(tree_.nodes_.size());
    YamlTree::Node& node = tree_.nodes_.emplace_back();
    node.kind = kind;
    node.location = location;
    if (!frames_.empty()) {
      Frame& frame = frames_.back();
      if (frame.last == YamlTree::kNone) {
        tree_.nodes_[frame.index].first = index;
      } else {
        tree_.nodes_[frame.last].next = index;
      }
      frame.last = index;
    }
    return index;
  }

  void Remember(YAML::anchor_t anchor, std::uint32_t index) {
    if (anchor != YAML::NullAnchor) anchors_[anchor] = index;
  }

  bool IsOpen(std::uint32_t index) const {
    for (const Frame& frame : frames_) {
      if (frame.index == index) return true;
    }
    return false;
  }

  void Open(YamlKind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (fault_ || RefuseTag(mark, tag)) return;
    const std::uint32_t index = Add(kind, LocationOf(mark));
    Remember(anchor, index);
    Push(index, LocationOf(mark));
  }

  void Push(std::uint32_t index, YamlLocation location) {
    if (frames_.size() >= limits_.depth_max) {
      Fail(location, fmt::format("nested more than {} levels deep", limits_.depth_max));
      return;
    }
    frames_.push_back(Frame{index});
  }

  void Close() {
    if (!fault_) frames_.pop_back();
  }

  // Recursion is bounded by depth_max: what is copied was opened within it, and Push() counts on.
  void Copy(std::uint32_t from, YamlLocation location) {
    if (++alias_nodes_ > limits_.alias_nodes_max) {
      Fail(location, fmt::format("aliases expand to more than {} values", limits_.alias_nodes_max));
    }
    if (fault_) return;
    const YamlTree::Node source = tree_.nodes_[from];
    const std::uint32_t index = Add(source.kind, source.location);
    tree_.nodes_[index].text = source.text;
    tree_.nodes_[index].text_bytes = source.text_bytes;
    tree_.nodes_[index].plain = source.plain;
    if (source.kind != YamlKind::kList && source.kind != YamlKind::kMap) return;
    Push(index, location);
    for (std::uint32_t child = source.first; child != YamlTree::kNone && !fault_;
         child = tree_.nodes_[child].next) {
      Copy(child, location);
    }
    Close();
  }

  YamlTree& tree_;
  const YamlLimits& limits_;
  std::vector<Frame> frames_;
  absl::flat_hash_map<YAML::anchor_t, std::uint32_t> anchors_;
  absl::flat_hash_map<std::string, std::uint32_t> words_;
  std::size_t alias_nodes_ = 0;
  std::optional<YamlFault> fault_;
};

std::optional<YamlFault> YamlTree::Parse(std::string_view text, const YamlLimits& limits) {
  nodes_.clear();
  text_.clear();
  if (text.size() > limits.text_bytes_max) {
    return YamlFault{{},
                     fmt::format("the file has {} bytes; at most {} are read", text.size(),
                                 limits.text_bytes_max)};
  }
  ViewBuffer buffer(text);
  std::istream stream(&buffer);
  YamlTreeBuilder builder(*this, limits);
  try {
    YAML::Parser parser(stream);
    const bool any = parser.HandleNextDocument(builder);
    if (std::optional<YamlFault> fault = builder.TakeFault()) return fault;
    if (any) {
      YamlTree rest;
      YamlTreeBuilder second(rest, limits);
      if (parser.HandleNextDocument(second)) {
        return YamlFault{rest.nodes_.empty() ? YamlLocation() : rest.nodes_.front().location,
                         "a second document; the file is one"};
      }
    }
  } catch (const YAML::Exception& error) {
    if (std::optional<YamlFault> fault = builder.TakeFault()) return fault;
    return YamlFault{LocationOf(error.mark), fmt::format("not YAML: {}", error.msg)};
  } catch (const std::exception& error) {
    return YamlFault{{}, fmt::format("not YAML: {}", error.what())};
  }
  if (nodes_.empty()) nodes_.emplace_back();
  return std::nullopt;
}

YamlNode YamlTree::root() const { return YamlNode(this, 0); }

std::vector<YamlNode> YamlNode::Elements() const {
  std::vector<YamlNode> elements;
  if (kind() != YamlKind::kList) return elements;
  for (std::uint32_t child = node().first; child != YamlTree::kNone;
       child = tree_->nodes_[child].next) {
    elements.push_back(YamlNode(tree_, child));
  }
  return elements;
}

std::vector<YamlEntry> YamlNode::Entries() const {
  std::vector<YamlEntry> entries;
  if (kind() != YamlKind::kMap) return entries;
  for (std::uint32_t key = node().first; key != YamlTree::kNone;) {
    const std::uint32_t value = tree_->nodes_[key].next;
    if (value == YamlTree::kNone) break;
    entries.push_back({YamlNode(tree_, key), YamlNode(tree_, value)});
    key = tree_->nodes_[value].next;
  }
  return entries;
}

}  // namespace tocsin
