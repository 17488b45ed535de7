// The tree of commands as plain data: what `tocsin` understands, what --help says, what completion
// offers. The parser (parse.h) and the completion generator (completion.h) both walk this tree, so
// neither can go stale.
//
// Lifetime: targets of options point into storage that a command's `run` owns.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace tocsin::cli {

class Console;

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

struct Option {
  // nullptr-like flag: bool*; the rest take a value, the vector one value per occurrence.
  using Target =
      std::variant<bool*, std::string*, std::uint64_t*, double*, std::vector<std::string>*>;

  std::string names;  // "--limit" or "-n,--limit"
  Target target;
  std::string value;  // what --help calls it: "N"; empty for a flag
  std::string help;
  std::string group = "Options";
  std::vector<std::string> choices = {};  // empty: anything
  bool required = false;
  bool is_file = false;  // completion offers file names

  bool TakesValue() const { return !std::holds_alternative<bool*>(target); }
};

struct Positional {
  std::string name;  // "FILE"
  std::variant<std::string*, std::vector<std::string>*> target;
  std::string help;
  std::vector<std::string> choices = {};
  bool required = true;
  bool is_file = false;
};

struct Command {
  std::string name;
  std::string summary;  // one line, no full stop
  std::string example;  // one or more lines beginning with `tocsin`
  std::vector<Option> options;
  std::vector<Positional> positionals;
  std::vector<std::unique_ptr<Command>> children;

  // Absent for a command that needs one of its children. Returns the exit status.
  std::function<int(Console&)> run;

  Command& Add(std::string child_name, std::string child_summary, std::string child_example) {
    children.push_back(std::make_unique<Command>());
    Command& child = *children.back();
    child.name = std::move(child_name);
    child.summary = std::move(child_summary);
    child.example = std::move(child_example);
    return child;
  }
};

}  // namespace tocsin::cli
