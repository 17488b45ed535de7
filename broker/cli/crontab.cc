#include "broker/cli/crontab.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/schedule/cron.h"
#include "broker/schedule/schedule.h"
#include "broker/schedule/time_zone.h"

namespace tocsin::cli {
namespace {

constexpr std::string_view kBlank = " \t";
constexpr std::size_t kFields = 5;
constexpr int kFieldMax[kFields] = {59, 23, 31, 12, 7};
constexpr std::string_view kDefaultPath = "/usr/bin:/bin";
constexpr std::chrono::hours kLookAhead(24 * 365 * 3);

std::string_view TrimLeft(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlank), text.size()));
  return text;
}

std::string_view Trim(std::string_view text) {
  text = TrimLeft(text);
  return text.substr(0, text.find_last_not_of(" \t\r") + 1);
}

// The next word; what is left begins with what follows it.
std::string_view TakeWord(std::string_view& rest) {
  rest = TrimLeft(rest);
  const std::size_t end = std::min(rest.find_first_of(kBlank), rest.size());
  const std::string_view word = rest.substr(0, end);
  rest.remove_prefix(end);
  return word;
}

bool IsNameChar(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

std::string_view Unquote(std::string_view text) {
  if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') &&
      text.back() == text.front()) {
    return text.substr(1, text.size() - 2);
  }
  return text;
}

// NAME = VALUE, each maybe in quotes.
std::optional<std::pair<std::string, std::string>> EnvironmentLine(std::string_view line) {
  std::size_t end = 0;
  if (line.front() == '"' || line.front() == '\'') {
    end = line.find(line.front(), 1);
    if (end == std::string_view::npos) return std::nullopt;
    ++end;
  } else {
    while (end < line.size() && IsNameChar(line[end])) ++end;
  }
  const std::string_view name = Unquote(line.substr(0, end));
  const std::string_view rest = TrimLeft(line.substr(end));
  if (name.empty() || rest.empty() || rest.front() != '=') return std::nullopt;
  return std::pair(std::string(name), std::string(Unquote(Trim(rest.substr(1)))));
}

bool IsVariableName(std::string_view name) {
  return !name.empty() && std::isdigit(static_cast<unsigned char>(name.front())) == 0 &&
         std::all_of(name.begin(), name.end(), IsNameChar);
}

std::string Quoted(std::string_view text) {
  std::string escaped;
  for (std::size_t i = 0; i < text.size(); ++i) {
    // What the configuration would take for a reference.
    if (text[i] == '$' && i + 1 < text.size() && text[i + 1] == '{') escaped.push_back('$');
    escaped.push_back(text[i]);
  }
  std::string out;
  AppendJsonString(out, escaped);
  return out;
}

struct Settings {
  std::map<std::string, std::string> environment;
  std::string shell = "/bin/sh";
  std::optional<std::string> zone;  // CRON_TZ
  std::optional<std::string> mail;
  int delay_minutes = 0;
};

struct Entry {
  std::string cron;
  std::string user;
  std::string command;
  std::optional<std::string> input;  // after the first %
};

// Which of the fields begin with `*`: cron then runs it by the wall clock through clock changes.
bool IsWild(const std::string& cron) {
  std::string_view rest = cron;
  const std::string_view minute = TakeWord(rest);
  const std::string_view hour = TakeWord(rest);
  return minute.front() == '*' || hour.front() == '*';
}

class Importer {
 public:
  explicit Importer(const CrontabOptions& options) : options_(options) {}

  void Read(const CrontabFile& file) {
    file_ = &file;
    system_ = options_.form == CrontabForm::kSystem ||
              (options_.form == CrontabForm::kAuto && LooksLikeSystem(file.path));
    settings_ = Settings();
    line_ = 0;
    std::string_view text = file.text;
    while (!text.empty()) {
      ++line_;
      const std::size_t end = std::min(text.find('\n'), text.size());
      ReadLine(Trim(text.substr(0, end)));
      if (end == text.size()) break;
      text.remove_prefix(end + 1);
    }
  }

  ImportedCrontab Finish() && {
    if (!result_.entries.empty()) NoteCommon();
    std::string& yaml = result_.yaml;
    yaml = "version: 1\n";
    for (const auto& [title, part] :
         {std::pair("sources", &sources_), std::pair("functions", &functions_),
          std::pair("triggers", &triggers_)}) {
      if (!part->empty()) yaml += fmt::format("{}:\n{}", title, *part);
    }
    return std::move(result_);
  }

 private:
  static bool LooksLikeSystem(std::string_view path) {
    return path == "/etc/crontab" || path.find("cron.d/") != std::string_view::npos;
  }

  void Note(std::string text, bool error = false) {
    result_.notes.push_back({file_->path, line_, error, std::move(text)});
  }

  void ReadLine(std::string_view line) {
    if (line.empty() || line.front() == '#') return;
    if (line.find('\0') != std::string_view::npos) {
      Note("a null character: the line is left out", true);
      return;
    }
    if (const auto variable = EnvironmentLine(line); variable) {
      Set(variable->first, variable->second);
      return;
    }
    Entry entry;
    if (ReadEntry(line, entry)) Add(entry);
  }

  void Set(const std::string& name, const std::string& value) {
    if (name == "CRON_TZ") {
      settings_.zone = value;
    } else if (name == "MAILTO" || name == "MAILFROM") {
      if (name == "MAILTO") settings_.mail = value;
    } else if (name == "SHELL" && value.empty()) {
      Note(fmt::format("SHELL names no program: {} stays", settings_.shell), true);
    } else if (name == "SHELL") {
      settings_.shell = value;
      settings_.environment[name] = value;
    } else if (name == "RANDOM_DELAY") {
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), settings_.delay_minutes);
      constexpr int kDelayMax = 24 * 60;
      if (error != std::errc() || end != value.data() + value.size() ||
          settings_.delay_minutes < 0 || settings_.delay_minutes > kDelayMax) {
        settings_.delay_minutes = 0;
        Note(fmt::format("RANDOM_DELAY={} is not a number of minutes up to {}: left out", value,
                         kDelayMax),
             true);
      }
    } else if (!IsVariableName(name)) {
      Note(fmt::format("`{}` is not a variable's name: left out", name), true);
    } else if (name.starts_with("CE_") || name.starts_with("TOCSIN_")) {
      Note(fmt::format("`{}` is set by the broker: left out", name), true);
    } else {
      settings_.environment[name] = value;
    }
  }

  bool ReadEntry(std::string_view line, Entry& entry) {
    if (line.front() == '-') {
      line.remove_prefix(1);
      Note("the leading `-` (do not log) has no meaning here");
    }
    if (line.front() == '@') {
      entry.cron = std::string(TakeWord(line));
    } else {
      for (std::size_t i = 0; i < kFields; ++i) {
        const std::string_view field = TakeWord(line);
        if (field.empty()) {
          Note("neither a variable nor an entry: it has fewer than five fields and a command",
               true);
          return false;
        }
        entry.cron += fmt::format("{}{}", i == 0 ? "" : " ", Field(std::string(field), i));
      }
    }
    if (system_) entry.user = std::string(TakeWord(line));
    // cron takes everything after the blanks, as it is.
    TakeCommand(TrimLeft(line), entry);
    if (entry.command.empty()) {
      Note("there is no command", true);
      return false;
    }
    return true;
  }

  // A field as our dialect has it.
  std::string Field(std::string field, std::size_t index) {
    const std::size_t tilde = field.find('~');
    if (tilde != std::string::npos) {
      const std::string from = field.substr(0, tilde);
      const std::string through = field.substr(tilde + 1);
      Note(
          fmt::format("`{}` was a random value at each start of cron; `H` is a stable one", field));
      return fmt::format("H({}-{})", from.empty() ? (index == 2 || index == 3 ? "1" : "0") : from,
                         through.empty() ? fmt::format("{}", kFieldMax[index]) : through);
    }
    // Vixie's cron takes any step: one beyond the field leaves the first value.
    std::string result;
    std::size_t begin = 0;
    while (begin <= field.size()) {
      const std::size_t end = std::min(field.find(',', begin), field.size());
      std::string element = field.substr(begin, end - begin);
      const std::size_t slash = element.find('/');
      int step = 0;
      if (slash != std::string::npos) {
        std::from_chars(element.data() + slash + 1, element.data() + element.size(), step);
      }
      if (step > kFieldMax[index]) {
        std::string first = element.substr(0, element.find_first_of("-/"));
        if (first == "*") first = index == 2 || index == 3 ? "1" : "0";
        Note(fmt::format("`{}` steps over the whole field: it means {}", element, first));
        element = first;
      }
      result += fmt::format("{}{}", result.empty() ? "" : ",", element);
      begin = end + 1;
    }
    return result;
  }

  // `%` ends the command and then separates lines of its input; `\%` is a `%`.
  static void TakeCommand(std::string_view text, Entry& entry) {
    std::string* target = &entry.command;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] == '%') {
        target->push_back('%');
        ++i;
      } else if (text[i] == '%') {
        if (!entry.input) {
          entry.input.emplace();
          target = &*entry.input;
        } else {
          target->push_back('\n');
        }
      } else {
        target->push_back(text[i]);
      }
    }
    if (entry.input && !entry.input->empty()) entry.input->push_back('\n');
    entry.command = std::string(Trim(entry.command));
  }

  void Add(const Entry& entry) {
    ScheduleSpec spec;
    spec.name = NameFor(entry);
    spec.cron = entry.cron;
    spec.timezone = settings_.zone.value_or(options_.zone);
    const auto schedule = Schedule::Parse(spec);
    if (!schedule.ok()) {
      Note(std::string(MessageOf(schedule.status())), true);
      return;
    }
    names_.insert(spec.name);
    if (!(*schedule)->at_boot()) NoteClockChanges(spec);
    if (settings_.mail && !settings_.mail->empty()) {
      Note(
          fmt::format("its output was mailed to {}; it is now kept with the run, and a failed run "
                      "becomes a dead letter",
                      *settings_.mail));
    }
    if (!system_) any_user_form_ = true;
    if (settings_.delay_minutes > 0) any_delay_ = true;
    Write(entry, spec);
    result_.entries.push_back(
        {spec.name, file_->path, line_, spec.cron, spec.timezone, entry.command});
  }

  void Write(const Entry& entry, const ScheduleSpec& spec) {
    const std::string origin = fmt::format("  # {}:{}\n", file_->path, line_);
    std::string timer = fmt::format("cron: {}", Quoted(spec.cron));
    if (spec.timezone != "UTC") timer += fmt::format(", timezone: {}", Quoted(spec.timezone));
    if (settings_.delay_minutes > 0) timer += fmt::format(", jitter: {}m", settings_.delay_minutes);
    if (options_.strict) timer += ", overlap: allow, missed: { policy: skip }";
    sources_ += fmt::format("{}  {}: {{ timer: {{ {} }} }}\n", origin, spec.name, timer);

    functions_ += fmt::format("{}  {}:\n    exec:\n      command: [{}, \"-c\", {}]\n", origin,
                              spec.name, Quoted(settings_.shell), Quoted(entry.command));
    if (!entry.user.empty()) functions_ += fmt::format("      user: {}\n", Quoted(entry.user));
    functions_ += "      environment:\n";
    std::map<std::string, std::string> environment = settings_.environment;
    environment.emplace("PATH", kDefaultPath);
    environment.emplace("SHELL", settings_.shell);
    for (const auto& [name, value] : environment) {
      functions_ += fmt::format("        {}: {}\n", name, Quoted(value));
    }
    const auto home = environment.find("HOME");
    if (home != environment.end() && !home->second.empty()) {
      functions_ += fmt::format("      directory: {}\n", Quoted(home->second));
    }
    if (entry.input && !entry.input->empty()) {
      functions_ += fmt::format("      stdin: {}\n", Quoted(*entry.input));
    } else {
      functions_ += "      input: none\n";
    }
    triggers_ += fmt::format(
        "{0}  {1}: {{ sources: [{1}], function: {1}, timeout: 1d, retry: {{ attempts: 1 }} }}\n",
        origin, spec.name);
  }

  // From the program's name, or what run-parts is told to run.
  std::string NameFor(const Entry& entry) const {
    static const std::set<std::string_view> kDull = {
        "cd",     "test",    "[",     "]",     "if",       "then", "command", "exec",
        "nice",   "ionice",  "sudo",  "sh",    "bash",     "env",  "timeout", "flock",
        "nohup",  "chronic", "root",  "set",   "true",     "null", "time",    ".",
        "source", "not",     "umask", "sleep", "run-parts"};
    std::string_view rest = entry.command;
    std::string name;
    bool testing = false;  // inside `test ...` or `[ ... ]`
    while (name.empty() && !TrimLeft(rest).empty()) {
      std::string_view word = Unquote(TakeWord(rest));
      if (word.empty()) continue;
      const bool ends = word == "&&" || word == "||" || word.back() == ';' ||
                        word.find(']') != std::string_view::npos;
      if (testing || word == "test" || word == "[" || word == "[[") {
        testing = !ends;
        continue;
      }
      if (word == "cd") static_cast<void>(TakeWord(rest));
      const bool path = std::isalnum(static_cast<unsigned char>(word.front())) != 0 ||
                        word.front() == '/' || word.front() == '.' || word.front() == '~';
      if (!path || word.find_first_of("=<>") != std::string_view::npos) continue;
      while (!word.empty() && (word.back() == '/' || word.back() == ';')) word.remove_suffix(1);
      word = word.substr(word.rfind('/') + 1);  // npos + 1 is 0
      std::string clean;
      for (const char c : word) {
        const bool plain = IsNameChar(c) || c == '-' || c == '.';
        if (plain && (!clean.empty() || std::isalnum(static_cast<unsigned char>(c)) != 0)) {
          clean.push_back(c);
        }
      }
      const bool number = clean.find_first_not_of("0123456789") == std::string::npos;
      if (!clean.empty() && !number && !kDull.contains(clean)) name = clean.substr(0, 60);
    }
    if (name.empty()) name = "job";
    std::string unique = name;
    for (int n = 2; names_.contains(unique); ++n) unique = fmt::format("{}-{}", name, n);
    return unique;
  }

  struct ClockChanges {
    bool in_gap = false;      // a time that does not exist
    bool in_overlap = false;  // one that comes twice
  };

  ClockChanges ChangesOf(const CronExpression& cron, const std::string& zone_name) const {
    ClockChanges changes;
    const auto zone = TimeZone::Find(zone_name);
    if (!zone.ok()) return changes;
    const auto from =
        std::chrono::floor<std::chrono::seconds>(options_.now).time_since_epoch().count();
    const std::int64_t end = from + std::chrono::seconds(kLookAhead).count();
    for (ZonePeriod period = zone->PeriodAt(from); period.end < end;) {
      period = zone->PeriodAt(period.end);
      const std::int64_t before = period.begin + period.offset_before;
      const std::int64_t after = period.begin + period.offset;
      changes.in_gap |= period.BeginsWithGap() && cron.Next(before, after).has_value();
      changes.in_overlap |= period.BeginsWithOverlap() && cron.Next(after, before).has_value();
    }
    return changes;
  }

  // What cron did when clocks changed, and what will be.
  void NoteClockChanges(const ScheduleSpec& spec) {
    const std::string cron = CronTextOf(spec.cron);
    const auto parsed = CronExpression::Parse(cron, spec.name);
    if (!parsed.ok() || parsed->every_hour()) return;
    const ClockChanges changes = ChangesOf(*parsed, spec.timezone);
    // cron watches the machine's zone alone, and what has no `*` in minute or hour.
    const bool watched = !settings_.zone && !IsWild(cron);
    if (changes.in_overlap && !watched && !parsed->interval()) {
      Note("this ran twice on the autumn night when clocks go back; it will run once");
    }
    if (changes.in_overlap && watched && parsed->interval()) {
      Note(
          "this ran once in the hour that comes twice in autumn; it will run in both, because it "
          "means an interval");
    }
    if (changes.in_gap && !watched) {
      Note(
          "this did not run at a time that clocks skip in spring; it will run once, at the gap's "
          "end");
    }
  }

  void NoteCommon() {
    file_ = &all_;
    line_ = 0;
    if (!options_.strict) {
      Note(
          "an instant that comes while the run before is not finished is skipped and recorded; "
          "cron "
          "started a second run (`overlap: allow`, or --strict)");
      Note(
          "after downtime the last missed instant of a day runs; cron ran none "
          "(`missed: { policy: skip }`, or --strict)");
    }
    Note(
        "a run that fails is not repeated, but becomes a dead letter (`retry`); a run is ended "
        "after "
        "a day (`timeout`)");
    if (any_user_form_) {
      Note("entries without a user run as the broker's user, in its directory unless HOME is set");
    }
    if (any_delay_) Note("RANDOM_DELAY became `jitter`: a delay of its own for each run");
  }

  const CrontabOptions& options_;
  const CrontabFile all_;
  const CrontabFile* file_ = nullptr;
  bool system_ = false;
  bool any_user_form_ = false;
  bool any_delay_ = false;
  std::uint32_t line_ = 0;
  Settings settings_;
  std::set<std::string> names_;
  std::string sources_, functions_, triggers_;
  ImportedCrontab result_;
};

}  // namespace

ImportedCrontab ImportCrontab(const std::vector<CrontabFile>& files,
                              const CrontabOptions& options) {
  Importer importer(options);
  for (const CrontabFile& file : files) importer.Read(file);
  return std::move(importer).Finish();
}

}  // namespace tocsin::cli
