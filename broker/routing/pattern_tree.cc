#include "broker/routing/pattern_tree.h"

#include <algorithm>
#include <utility>

namespace tocsin {
namespace {

class Joiner {
 public:
  Joiner(std::size_t parts_max, std::size_t& parts) : parts_max_(parts_max), parts_(parts) {}

  bool Join(PatternObject& object) {
    if (!object.choices.empty() && (!Nest(object) || !MoveShared(object))) return false;
    for (auto& [name, field] : object.fields) {
      if (field.object != nullptr && !Join(*field.object)) return false;
    }
    for (std::vector<PatternObject>& choice : object.choices) {
      for (PatternObject& alternative : choice) {
        if (!Join(alternative)) return false;
      }
    }
    return true;
  }

 private:
  bool Nest(PatternObject& object) {
    while (object.choices.size() > 1) {
      const std::vector<PatternObject> last = std::move(object.choices.back());
      object.choices.pop_back();
      for (PatternObject& alternative : object.choices.front()) {
        std::vector<PatternObject>& copy = alternative.choices.emplace_back();
        for (const PatternObject& one : last) {
          if (!Copy(one, copy.emplace_back())) return false;
        }
      }
    }
    return true;
  }

  bool MoveShared(PatternObject& object) {
    std::vector<PatternObject>& alternatives = object.choices.front();
    for (auto field = object.fields.begin(); field != object.fields.end();) {
      const bool shared =
          field->second.object != nullptr &&
          std::any_of(alternatives.begin(), alternatives.end(),
                      [&](const PatternObject& one) { return HasObject(one, field->first); });
      if (!shared) {
        ++field;
        continue;
      }
      for (PatternObject& alternative : alternatives) {
        if (!Add(field->first, field->second, alternative)) return false;
      }
      field = object.fields.erase(field);
    }
    return true;
  }

  // In its own fields or those of its choices.
  static bool HasObject(const PatternObject& object, const std::string& name) {
    const auto field = object.fields.find(name);
    if (field != object.fields.end() && field->second.object != nullptr) return true;
    return std::any_of(object.choices.begin(), object.choices.end(), [&](const auto& choice) {
      return std::any_of(choice.begin(), choice.end(),
                         [&](const PatternObject& one) { return HasObject(one, name); });
    });
  }

  // `object` and the field hold.
  bool Add(const std::string& name, const PatternField& field, PatternObject& object) {
    const auto there = object.fields.find(name);
    if (there == object.fields.end()) return Copy(field, object.fields[name]);
    if (field.object != nullptr && there->second.object != nullptr) {
      return Merge(*field.object, *there->second.object);
    }
    // Clauses of one name twice: each holds for some value. A choice of two that are the same says
    // so in the language itself.
    std::vector<PatternObject> choice(2);
    for (PatternObject& one : choice) {
      if (!Copy(field, one.fields[name])) return false;
    }
    object.choices.push_back(std::move(choice));
    return true;
  }

  bool Merge(const PatternObject& from, PatternObject& to) {
    for (const auto& [name, field] : from.fields) {
      if (!Add(name, field, to)) return false;
    }
    for (const std::vector<PatternObject>& choice : from.choices) {
      std::vector<PatternObject>& copy = to.choices.emplace_back();
      for (const PatternObject& one : choice) {
        if (!Copy(one, copy.emplace_back())) return false;
      }
    }
    return true;
  }

  bool Copy(const PatternObject& from, PatternObject& to) { return Count(1) && Merge(from, to); }

  bool Copy(const PatternField& from, PatternField& to) {
    if (!Count(1 + from.clauses.size())) return false;
    for (const PatternClause& clause : from.clauses) {
      if (!Count(clause.children.size())) return false;
    }
    to.clauses = from.clauses;
    if (from.object == nullptr) return true;
    to.object = std::make_unique<PatternObject>();
    return Merge(*from.object, *to.object);
  }

  bool Count(std::size_t parts) {
    parts_ += parts;
    return parts_ <= parts_max_;
  }

  std::size_t parts_max_;
  std::size_t& parts_;
};

}  // namespace

bool JoinChoices(PatternObject& object, std::size_t parts_max, std::size_t& parts) {
  return Joiner(parts_max, parts).Join(object);
}

}  // namespace tocsin
