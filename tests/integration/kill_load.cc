// The load of broker_kill_test.py, and what looks at the result: programs that outlive the broker.
//
//   kill_load publish ANSWERED RATE      publishes numbered events until stdin ends, then writes
//   how
//                                        many were answered; RATE events/s, 0: as fast as it goes
//   kill_load work RUNS                  serves work, ticks and files; a line for each execution
//   kill_load check ANSWERED RUNS FILES ATTEMPTS KILLS
//                                        counts executions; FILES is how many files were dropped
//
// Event n has the key n % 1024; every 997th is poison. An execution's line is written before its
// outcome is known to anybody, with one write(2), so the file has them in the order in which they
// happened, whoever is killed.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "broker/base/system_clock.h"
#include "sdk/cpp/publisher.h"
#include "sdk/cpp/worker.h"
#include "tests/integration/load_common.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kKeys = 1024;
constexpr std::uint64_t kPoisonEvery = 997;
constexpr std::uint64_t kUnansweredMax = 20'000;

bool IsPoison(std::uint64_t number) { return number % kPoisonEvery == kPoisonEvery - 1; }

int Publish(const char* path, std::uint64_t rate) {
  SystemClock clock;
  sdk::PublisherOptions options;
  options.connection = QuickToReturn();
  sdk::Publisher publisher(options);
  std::atomic<std::uint64_t> answered{0}, duplicates{0}, failed{0};
  const Instant began = clock.Monotonic();
  std::uint64_t number = 0;
  const std::string padding(100, 'x');
  while (!InputEnds(0)) {
    const std::uint64_t ended = answered.load() + failed.load();
    const double seconds = std::chrono::duration<double>(clock.Monotonic() - began).count();
    if ((rate > 0 && number > static_cast<std::uint64_t>(seconds * static_cast<double>(rate))) ||
        number - ended > kUnansweredMax) {
      if (InputEnds(2)) break;
      continue;
    }
    for (int i = 0; i < 100; ++i, ++number) {
      sdk::Event event("load", "/kill");
      event.set_id(std::to_string(number));
      event.set_partition_key("k" + std::to_string(number % kKeys));
      event.SetText(padding);
      publisher.Publish(event, [&](const sdk::PublishResult& result) {
        if (!result.status.ok()) {
          ++failed;
          return;
        }
        ++answered;
        if (result.duplicate) ++duplicates;
      });
    }
  }
  const bool flushed = publisher.Flush(std::chrono::seconds(60));
  publisher.Close();
  // A publisher keeps its order and sends again until it is answered: all of them, or an error.
  if (!flushed || failed.load() > 0 || answered.load() != number) {
    std::fprintf(stderr, "publisher: %lu published, %lu answered, %lu failed\n", number,
                 answered.load(), failed.load());
    return 1;
  }
  std::FILE* out = std::fopen(path, "w");
  if (out == nullptr) return 1;
  std::fprintf(out, "%lu %lu\n", number, duplicates.load());
  return std::fclose(out) == 0 ? 0 : 1;
}

int Work(const char* path) {
  const int runs = ::open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (runs < 0) return 1;
  const auto note = [runs](const std::string& line) {
    if (::write(runs, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::abort();
  };
  sdk::WorkerOptions options;
  options.connection = QuickToReturn();
  options.prefetch = 2000;
  sdk::Worker worker("kill", options);
  worker.On("work",
            [&note](const sdk::Event& event, sdk::Context&) {
              const std::uint64_t number =
                  std::strtoull(std::string(event.id()).c_str(), nullptr, 10);
              note("e" + std::to_string(number) + "\n");
              return IsPoison(number) ? sdk::RetryError("poison", "it never works") : sdk::Ack();
            },
            {.concurrency = 4});
  worker.On("ticks", [&note](const sdk::Event& event, sdk::Context&) {
    note("t" + std::string(event.id()) + "\n");
    return sdk::Ack();
  });
  worker.On("files", [&note](const sdk::Event& event, sdk::Context&) {
    note("f" + event.subject() + "\n");
    return sdk::Ack();
  });
  return worker.Run();
}

struct Checked {
  std::vector<std::uint32_t> executions;
  std::map<std::string, std::uint32_t> ticks, files;
  std::uint64_t out_of_order = 0;
  std::uint64_t lines = 0;
};

bool ReadRuns(const char* path, std::uint64_t published, Checked& checked) {
  std::FILE* in = std::fopen(path, "r");
  if (in == nullptr) return false;
  checked.executions.assign(published, 0);
  std::array<std::int64_t, kKeys> last{};
  last.fill(-1);
  std::array<char, 8192> line{};
  while (std::fgets(line.data(), line.size(), in) != nullptr) {
    ++checked.lines;
    std::string text(line.data());
    text.pop_back();
    if (text[0] == 't') ++checked.ticks[text.substr(1)];
    if (text[0] == 'f') ++checked.files[text.substr(1)];
    if (text[0] != 'e') continue;
    const std::uint64_t number = std::strtoull(text.c_str() + 1, nullptr, 10);
    if (number >= published) return false;
    std::int64_t& before = last[number % kKeys];
    const auto now = static_cast<std::int64_t>(number);
    if (checked.executions[number]++ == 0 && now < before) {
      if (checked.out_of_order++ < 5) std::printf("FAILED: %ld first ran after %ld\n", now, before);
    }
    before = std::max(before, now);
  }
  return std::fclose(in) == 0;
}

int Check(const char* answered, const char* runs, std::uint64_t files, std::uint64_t attempts,
          std::uint64_t kills) {
  std::uint64_t published = 0;
  std::uint64_t duplicates = 0;
  std::FILE* in = std::fopen(answered, "r");
  if (in == nullptr || std::fscanf(in, "%lu %lu", &published, &duplicates) != 2) return 1;
  std::fclose(in);
  Checked checked;
  if (!ReadRuns(runs, published, checked)) {
    std::printf("FAILED: the file of executions cannot be read\n");
    return 1;
  }
  std::uint64_t missing = 0, most = 0, poison = 0;
  for (std::uint64_t number = 0; number < published; ++number) {
    poison += IsPoison(number) ? 1 : 0;
    const std::uint64_t ran = checked.executions[number];
    most = std::max<std::uint64_t>(most, ran);
    // A poison event must have had its attempts, whatever else happened.
    if (ran == 0 || (IsPoison(number) && ran < attempts)) {
      if (missing++ < 5) std::printf("FAILED: event %lu ran %lu times\n", number, ran);
    }
  }
  std::uint64_t missing_files = 0;
  for (std::uint64_t file = 0; file < files; ++file) {
    const std::string name = "f" + std::to_string(file) + ".csv";
    if (!checked.files.contains(name) && missing_files++ < 5) {
      std::printf("FAILED: file %s never ran\n", name.c_str());
    }
  }
  const bool strangers = checked.files.size() != files - missing_files;
  if (strangers) std::printf("FAILED: files ran that were never dropped whole\n");
  if (most > attempts + kills) std::printf("FAILED: an event ran %lu times\n", most);
  std::printf(
      "{\"published\":%lu,\"duplicates\":%lu,\"poison\":%lu,\"executions\":%lu,"
      "\"most\":%lu,\"ticks\":%zu,\"files\":%zu}\n",
      published, duplicates, poison, checked.lines, most, checked.ticks.size(),
      checked.files.size());
  const bool good = missing == 0 && missing_files == 0 && !strangers && checked.out_of_order == 0 &&
                    most <= attempts + kills;
  return good ? 0 : 1;
}

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) {
  const auto number = [argv](int i) { return std::strtoull(argv[i], nullptr, 10); };
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "publish" && argc == 4) return tocsin::Publish(argv[2], number(3));
  if (what == "work" && argc == 3) return tocsin::Work(argv[2]);
  if (what == "check" && argc == 7) {
    return tocsin::Check(argv[2], argv[3], number(4), number(5), number(6));
  }
  std::fprintf(stderr, "usage: see the head of kill_load.cc\n");
  return 2;
}
