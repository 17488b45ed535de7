// Tocsin's side of match_figures.py: commands on standard input, a line of JSON for each on
// standard output, as RulerPeer.java does.
//
//   load RULES EVENTS   files of JSON lines: patterns of payloads, and payloads
//   count               matches of each pattern over all events
//   run SECONDS         events parsed and matched, again and again from the first; of core time
//   build SECONDS       patterns read and new tables built

#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/routing/route_table.h"

namespace tocsin {
namespace {

std::vector<std::string> ReadLines(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "r");
  TOCSIN_CHECK(file != nullptr, "cannot read {}", path);
  std::string text;
  char piece[65536];
  for (std::size_t n = 0; (n = std::fread(piece, 1, sizeof piece, file)) > 0;) {
    text.append(piece, n);
  }
  std::fclose(file);
  std::vector<std::string> lines;
  for (const auto& line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    lines.emplace_back(line.data(), line.size());
  }
  return lines;
}

std::size_t ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  TOCSIN_CHECK(file != nullptr, "/proc/self/statm");
  unsigned long total = 0;
  unsigned long resident = 0;
  const int read = std::fscanf(file, "%lu %lu", &total, &resident);
  std::fclose(file);
  TOCSIN_CHECK(read == 2, "/proc/self/statm");
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

class Figures {
 public:
  void Load(const std::string& rules, const std::string& events) {
    table_.reset();
    rules_ = ReadLines(rules);
    events_.clear();
    for (const std::string& data : ReadLines(events)) {
      EventBuilder builder(fmt::format("{}", events_.size()), "/lots", "lot.changed");
      builder.Attribute("datacontenttype", "application/json").TextData(data);
      events_.push_back(std::move(builder).Encode());
    }
    next_ = 0;
    malloc_trim(0);
    const std::size_t before = ResidentBytes();
    table_ = Build();
    malloc_trim(0);
    fmt::print("{{\"rules\":{},\"bytes\":{}}}\n", rules_.size(), ResidentBytes() - before);
  }

  void Count() {
    std::vector<std::uint64_t> counts(rules_.size());
    for (std::size_t i = 0; i < events_.size(); ++i) {
      Match();
      for (const std::uint32_t route : matches_) ++counts[route];
    }
    fmt::print("{{\"matches\":[{}]}}\n", fmt::join(counts, ","));
  }

  void Run(double seconds) {
    std::uint64_t done = 0;
    std::uint64_t found = 0;
    const double start = CoreSeconds();
    while (Since(start) < seconds) {
      for (int i = 0; i < 64; ++i) {
        Match();
        found += matches_.size();
      }
      done += 64;
    }
    fmt::print("{{\"count\":{},\"seconds\":{:.6f},\"matches\":{}}}\n", done, Since(start), found);
  }

  void BuildFor(double seconds) {
    std::uint64_t done = 0;
    const double start = CoreSeconds();
    do {
      const auto table = Build();
      done += table->size();
    } while (Since(start) < seconds);
    fmt::print("{{\"count\":{},\"seconds\":{:.6f}}}\n", done, Since(start));
  }

 private:
  // Of this thread: on a busy machine waiting for a core is not the matcher's time.
  static double CoreSeconds() {
    timespec now{};
    TOCSIN_CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0, "CLOCK_THREAD_CPUTIME_ID");
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  }
  static double Since(double start) { return CoreSeconds() - start; }

  std::shared_ptr<const RouteTable> Build() const {
    std::vector<RouteSpec> routes;
    routes.reserve(rules_.size());
    for (const std::string& rule : rules_) {
      RouteSpec& route = routes.emplace_back();
      route.name = fmt::format("t{}", routes.size());
      auto pattern = Pattern::FromJson("{\"data\":" + rule + "}");
      TOCSIN_CHECK(pattern.ok(), "{}: {}", rule, MessageOf(pattern.status()));
      route.pattern = *std::move(pattern);
    }
    return RouteTable::Build(std::move(routes));
  }

  void Match() {
    const std::string& bytes = events_[next_];
    if (++next_ == events_.size()) next_ = 0;
    TOCSIN_CHECK(ParseEvent(bytes, view_).ok(), "a benchmark's event");
    table_->Match(view_, "", scratch_, matches_);
  }

  std::vector<std::string> rules_;
  std::vector<std::string> events_;
  std::shared_ptr<const RouteTable> table_;
  EventView view_;
  MatchScratch scratch_;
  std::vector<std::uint32_t> matches_;
  std::size_t next_ = 0;
};

int Main() {
  Figures figures;
  char line[8192];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \n"), absl::SkipEmpty());
    if (words.size() == 3 && words[0] == "load") {
      figures.Load(words[1], words[2]);
    } else if (words.size() == 1 && words[0] == "count") {
      figures.Count();
    } else if (words.size() == 2 && words[0] == "run") {
      figures.Run(std::stod(words[1]));
    } else if (words.size() == 2 && words[0] == "build") {
      figures.BuildFor(std::stod(words[1]));
    } else {
      fmt::print(stderr, "match_figures: not a command: {}", line);
      return 2;
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace tocsin

int main() { return tocsin::Main(); }
