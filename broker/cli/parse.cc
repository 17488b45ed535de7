#include "broker/cli/parse.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <sstream>
#include <string_view>
#include <utility>

namespace tocsin::cli {
namespace {

using AppsByCommand = std::vector<std::pair<const CLI::App*, const Command*>>;

// Changes of one letter to come from `a` to `b`.
std::size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string LongName(const Option& option) {
  return option.names.substr(option.names.rfind(',') + 1);
}

// What the person may have meant by `word`, or "".
std::string Suggestion(const Command& command, std::string_view word) {
  std::string best;
  std::size_t best_distance = word.size() <= 4 ? 2 : 3;
  auto consider = [&](const std::string& name) {
    const std::size_t distance = EditDistance(word, name);
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  };
  if (word.rfind("-", 0) == 0) {
    const std::string_view bare = word.substr(0, word.find('='));
    word = bare;
    for (const Option& option : command.options) consider(LongName(option));
  } else {
    for (const auto& child : command.children) consider(child->name);
  }
  return best;
}

void AddOption(CLI::App& app, const Option& option) {
  CLI::Option* added = std::visit(
      [&](auto* target) -> CLI::Option* {
        if constexpr (std::is_same_v<decltype(target), bool*>) {
          return app.add_flag(option.names, *target, option.help);
        } else {
          return app.add_option(option.names, *target, option.help);
        }
      },
      option.target);
  added->group(option.group)->required(option.required);
  if (option.TakesValue()) added->type_name(option.value);
  if (std::holds_alternative<std::vector<std::string>*>(option.target)) {
    added->allow_extra_args(false);
  }
  if (!option.choices.empty()) {
    added->check(CLI::IsMember(option.choices))
        ->type_name(fmt::format("{}", fmt::join(option.choices, "|")));
  }
}

void AddPositional(CLI::App& app, const Positional& positional) {
  CLI::Option* added = std::visit(
      [&](auto* target) { return app.add_option(positional.name, *target, positional.help); },
      positional.target);
  added->required(positional.required)->type_name("")->group("Arguments");
  if (!positional.choices.empty()) added->check(CLI::IsMember(positional.choices));
}

void Fill(CLI::App& app, const Command& command, AppsByCommand& apps) {
  apps.emplace_back(&app, &command);
  app.set_help_flag("-h,--help", "show this help and exit");
  if (!command.example.empty())
    app.footer("\nExample:\n  " + [&] {
      std::string lines = command.example;
      for (std::size_t at = 0; (at = lines.find('\n', at)) != std::string::npos; at += 3) {
        lines.replace(at, 1, "\n  ");
      }
      return lines;
    }());
  for (const Positional& positional : command.positionals) AddPositional(app, positional);
  for (const Option& option : command.options) AddOption(app, option);
  for (const auto& child : command.children) {
    Fill(*app.add_subcommand(child->name, child->summary), *child, apps);
  }
  // At most one, so that `triggers pause status` names a trigger and not the command `status`.
  if (!command.children.empty()) app.require_subcommand(command.run ? 0 : 1, 1);
}

// The innermost command that was named.
const CLI::App* Innermost(const CLI::App& root) {
  const CLI::App* app = &root;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().back();
  return app;
}

const Command* Find(const AppsByCommand& apps, const CLI::App* app) {
  const auto it = std::find_if(apps.begin(), apps.end(), [&](auto& p) { return p.first == app; });
  return it == apps.end() ? nullptr : it->second;
}

std::string PathOf(const CLI::App* app) {
  return app->get_parent() == nullptr ? app->get_name()
                                      : PathOf(app->get_parent()) + " " + app->get_name();
}

std::string Explain(const CLI::ParseError& error, const CLI::App& innermost,
                    const Command& command) {
  if (error.get_name() != "ExtrasError") return error.what();
  const std::vector<std::string> extras = innermost.remaining(true);
  const std::string word = extras.empty() ? "" : extras.front();
  const bool is_option = word.rfind("-", 0) == 0;
  std::string text = is_option                  ? fmt::format("unknown option '{}'", word)
                     : command.children.empty() ? fmt::format("unexpected argument '{}'", word)
                                                : fmt::format("unknown command '{}'", word);
  if (const std::string meant = Suggestion(command, word); !meant.empty()) {
    text += fmt::format("; did you mean '{}'?", meant);
  }
  return text;
}

}  // namespace

Parsed Parse(const Command& root, std::vector<std::string> words) {
  CLI::App app(root.summary, root.name);
  app.get_formatter()->column_width(34);
  app.get_formatter()->label("REQUIRED", "(required)");
  app.get_formatter()->label("OPTIONS", "[OPTIONS]");
  app.get_formatter()->label("SUBCOMMAND", "COMMAND");
  app.get_formatter()->label("SUBCOMMANDS", "COMMANDS");
  AppsByCommand apps;
  Fill(app, root, apps);
  std::reverse(words.begin(), words.end());
  Parsed parsed;
  try {
    app.parse(std::move(words));
    parsed.command = Find(apps, Innermost(app));
    // A command without `run` needs a child, which the parser has demanded.
  } catch (const CLI::CallForHelp& help) {
    std::ostringstream out;
    app.exit(help, out, out);
    parsed.out = out.str();
  } catch (const CLI::ParseError& error) {
    const CLI::App* innermost = Innermost(app);
    parsed.status = kExitUsage;
    // An unknown word may have been left with an outer command.
    const Command& command = *Find(apps, innermost);
    const std::string path = PathOf(innermost);
    parsed.error =
        fmt::format("{}: {}\nSee '{} --help'.\n", path, Explain(error, *innermost, command), path);
  }
  return parsed;
}

}  // namespace tocsin::cli
