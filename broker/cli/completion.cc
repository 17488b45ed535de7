#include "broker/cli/completion.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>
#include <vector>

namespace tocsin::cli {
namespace {

using Paths = std::vector<std::pair<std::string, const Command*>>;

// Every command with its path, parents first.
void Walk(const Command& command, const std::string& path, Paths& paths) {
  paths.emplace_back(path, &command);
  for (const auto& child : command.children) Walk(*child, path + " " + child->name, paths);
}

std::vector<std::string> NamesOf(const Option& option) {
  std::vector<std::string> names;
  std::size_t from = 0;
  while (from <= option.names.size()) {
    const std::size_t comma = std::min(option.names.find(',', from), option.names.size());
    names.push_back(option.names.substr(from, comma - from));
    from = comma + 1;
  }
  return names;
}

// In single quotes, for any of the three shells.
std::string Quote(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

// The `case` that walks from the root to the command that the words name.
std::string PathCase(const Paths& paths) {
  std::string out;
  for (const auto& [path, command] : paths) {
    if (path.find(' ') == std::string::npos) continue;
    out += (out.empty() ? "" : "|") + Quote(path);
  }
  return out;
}

bool TakesFile(const Command& command) {
  for (const Positional& positional : command.positionals) {
    if (positional.is_file) return true;
  }
  return false;
}

std::string Bash(const Command& root, const Paths& paths) {
  std::string values;
  std::string words;
  for (const auto& [path, command] : paths) {
    std::string options = "-h --help";
    for (const Option& option : command->options) {
      for (const std::string& name : NamesOf(option)) {
        options += " " + name;
        if (!option.TakesValue()) continue;
        const std::string reply =
            option.is_file ? "COMPREPLY=($(compgen -f -- \"$current\"))"
                           : fmt::format("COMPREPLY=($(compgen -W '{}' -- \"$current\"))",
                                         fmt::join(option.choices, " "));
        values += fmt::format("    {}) {}; return ;;\n", Quote(path + " " + name), reply);
      }
    }
    std::string plain;
    for (const auto& child : command->children) plain += (plain.empty() ? "" : " ") + child->name;
    for (const Positional& positional : command->positionals) {
      for (const std::string& choice : positional.choices)
        plain += (plain.empty() ? "" : " ") + choice;
    }
    words += fmt::format("    {}) options='{}'; words='{}'; files={} ;;\n", Quote(path), options,
                         plain, TakesFile(*command) ? "yes" : "");
  }
  return fmt::format(R"(# bash completion of {0}; load it with: source <({0} completion bash)
_{0}() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
  local path={0} options='' words='' files='' i
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case "$path ${{COMP_WORDS[i]}}" in
      {1}) path="$path ${{COMP_WORDS[i]}}" ;;
    esac
  done
  COMPREPLY=()
  case "$path $previous" in
{2}  esac
  case "$path" in
{3}  esac
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif [[ $files ]]; then
    COMPREPLY=($(compgen -f -- "$current"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  fi
}}
complete -F _{0} {0}
)",
                     root.name, PathCase(paths), values, words);
}

std::string Zsh(const Command& root, const Paths& paths) {
  // In _describe a colon parts the word from what it means.
  auto described = [](const std::string& word, const std::string& help) {
    std::string escaped;
    for (const char c : help) escaped += c == ':' ? "\\:" : std::string(1, c);
    return " " + Quote(word + ":" + escaped);
  };
  std::string values;
  std::string words;
  for (const auto& [path, command] : paths) {
    std::string options = described("--help", "show this help and exit");
    for (const Option& option : command->options) {
      for (const std::string& name : NamesOf(option)) {
        options += described(name, option.help);
        if (!option.TakesValue()) continue;
        values += fmt::format("    {}) {}; return ;;\n", Quote(path + " " + name),
                              option.is_file
                                  ? "_files"
                                  : fmt::format("compadd -- {}", fmt::join(option.choices, " ")));
      }
    }
    std::string plain;
    for (const auto& child : command->children) plain += described(child->name, child->summary);
    for (const Positional& positional : command->positionals) {
      for (const std::string& choice : positional.choices)
        plain += described(choice, positional.help);
    }
    words += fmt::format("    {}) options=({} ); plain=({} ); files={} ;;\n", Quote(path), options,
                         plain, TakesFile(*command) ? "yes" : "''");
  }
  return fmt::format(R"(#compdef {0}
# zsh completion of {0}; load it with: source <({0} completion zsh)
_{0}() {{
  local here={0} files='' word
  local -a options plain
  for word in ${{words[2,$((CURRENT - 1))]}}; do
    case "$here $word" in
      {1}) here="$here $word" ;;
    esac
  done
  case "$here ${{words[$((CURRENT - 1))]}}" in
{2}  esac
  case "$here" in
{3}  esac
  if [[ ${{words[$CURRENT]}} == -* ]]; then
    _describe option options
  elif [[ -n $files ]]; then
    _files
  else
    _describe command plain
  fi
}}
compdef _{0} {0}
)",
                     root.name, PathCase(paths), values, words);
}

std::string Fish(const Command& root, const Paths& paths) {
  std::string cases;
  std::string lines;
  for (const auto& [path, command] : paths) {
    if (path.find(' ') != std::string::npos) cases += " " + Quote(path);
    const std::string here =
        fmt::format("complete -c {} -n 'test (__{}_path) = \"{}\"'", root.name, root.name, path);
    for (const auto& child : command->children) {
      lines += fmt::format("{} -a {} -d {}\n", here, child->name, Quote(child->summary));
    }
    for (const Positional& positional : command->positionals) {
      if (positional.is_file) lines += here + " -F\n";
      for (const std::string& choice : positional.choices) {
        lines += fmt::format("{} -a {} -d {}\n", here, choice, Quote(positional.help));
      }
    }
    for (const Option& option : command->options) {
      std::string line = here;
      for (const std::string& name : NamesOf(option)) {
        line += name.rfind("--", 0) == 0 ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      if (option.TakesValue()) line += option.is_file ? " -r -F" : " -x";
      if (!option.choices.empty()) line += fmt::format(" -a '{}'", fmt::join(option.choices, " "));
      lines += line + " -d " + Quote(option.help) + "\n";
    }
    lines += here + " -s h -l help -d 'show this help and exit'\n";
  }
  return fmt::format(R"(# fish completion of {0}; load it with: {0} completion fish | source
function __{0}_path
  set -l path {0}
  set -l words (commandline -opc)
  for word in $words[2..-1]
    switch "$path $word"
      case{1}
        set path "$path $word"
    end
  end
  echo $path
end
complete -c {0} -f
{2})",
                     root.name, cases, lines);
}

}  // namespace

std::string CompletionScript(const Command& root, std::string_view shell) {
  Paths paths;
  Walk(root, root.name, paths);
  if (shell == "bash") return Bash(root, paths);
  if (shell == "zsh") return Zsh(root, paths);
  if (shell == "fish") return Fish(root, paths);
  return "";
}

}  // namespace tocsin::cli
