#include "broker/server/admin_runs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>

#include "broker/base/json_scan.h"

namespace tocsin {
namespace {

constexpr std::size_t kHeadBytesMax = 64 * 1024;
constexpr std::size_t kRunBytesMax = std::size_t{3} << 20;  // one message

// As much of it as there is; empty if it cannot be read.
std::string ReadFile(const std::filesystem::path& path, std::size_t bytes_max) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  std::string text;
  std::array<char, 16 * 1024> piece{};
  while (text.size() < bytes_max) {
    const ssize_t bytes = read(file, piece.data(), std::min(piece.size(), bytes_max - text.size()));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) break;
    text.append(piece.data(), static_cast<std::size_t>(bytes));
  }
  close(file);
  return text;
}

// A flat JSON object: each member to `set` by its name and its text, strings without quotes.
template <typename Set>
bool ReadObject(std::string_view line, const Set& set) {
  JsonValue value;
  if (!JsonScanner(line).ReadDocument(value).ok() || value.kind != JsonKind::kObject) return false;
  for (const JsonMember& member : JsonMembers(value)) {
    set(member.name, member.value.kind == JsonKind::kString ? JsonString(member.value)
                                                            : std::string(member.value.raw));
  }
  return true;
}

std::uint64_t DecimalOf(const std::string& text) {
  return std::strtoull(text.c_str(), nullptr, 10);
}
double Seconds(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

std::optional<v1::RunStatus> ReadRun(const std::filesystem::path& path, const std::string& function,
                                     bool with_output) {
  const std::string text = ReadFile(path, with_output ? kRunBytesMax : kHeadBytesMax);
  const std::size_t line = text.find('\n');
  if (line == std::string::npos) return std::nullopt;
  v1::RunStatus run;
  run.set_id(fmt::format("{}/{}", function, path.stem().string()));
  const bool read = ReadObject(std::string_view(text).substr(0, line),
                               [&run](const std::string& name, std::string value) {
                                 if (name == "function") run.set_function(value);
                                 if (name == "trigger") run.set_trigger(value);
                                 if (name == "delivery") run.set_delivery(value);
                                 if (name == "attempt")
                                   run.set_attempt(static_cast<std::uint32_t>(DecimalOf(value)));
                                 if (name == "event") run.set_event(value);
                                 if (name == "started") run.set_started(value);
                                 if (name == "seconds") run.set_seconds(Seconds(value));
                                 if (name == "ended") run.set_ended(value);
                                 if (name == "answer") run.set_answer(value);
                                 if (name == "message") run.set_message(value);
                                 if (name == "bytes") run.set_output_bytes(DecimalOf(value));
                                 if (name == "cpu_seconds") run.set_cpu_seconds(Seconds(value));
                                 if (name == "peak_memory_bytes")
                                   run.set_peak_memory_bytes(DecimalOf(value));
                               });
  if (!read) return std::nullopt;
  if (with_output) run.set_output(text.substr(line + 1));
  return run;
}

}  // namespace

absl::StatusOr<std::vector<v1::RunStatus>> ReadRuns(const std::string& runs_dir,
                                                    const v1::ListRunsRequest& request) {
  struct Found {
    std::filesystem::path path;
    std::string function;
  };
  std::vector<Found> found;
  std::error_code ignored;
  // Names are compared with what is there, so that none leads out of the directory.
  for (const auto& dir : std::filesystem::directory_iterator(runs_dir, ignored)) {
    const std::string function = dir.path().filename().string();
    if (!dir.is_directory(ignored)) continue;
    if (!request.function().empty() && function != request.function()) continue;
    for (const auto& file : std::filesystem::directory_iterator(dir.path(), ignored)) {
      if (file.path().extension() != ".log") continue;
      if (!request.id().empty() &&
          request.id() != fmt::format("{}/{}", function, file.path().stem().string())) {
        continue;
      }
      found.push_back({file.path(), function});
    }
  }
  // They begin with the time.
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.path.filename() > b.path.filename(); });
  if (request.limit() > 0 && found.size() > request.limit()) found.resize(request.limit());
  std::vector<v1::RunStatus> runs;
  for (const Found& one : found) {
    if (auto run = ReadRun(one.path, one.function, !request.id().empty())) {
      runs.push_back(std::move(*run));
    }
  }
  if (!request.id().empty() && runs.empty()) {
    return absl::NotFoundError(fmt::format(
        "there is no run `{}`: of a function the newest are kept; `tocsin runs` shows them",
        request.id()));
  }
  return runs;
}

std::vector<v1::FunctionStatus> ReadUsage(const std::string& runs_dir) {
  const std::string text = ReadFile(runs_dir + "/usage", kRunBytesMax);
  std::vector<v1::FunctionStatus> functions;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size() - 1);
    v1::FunctionStatus one;
    const bool read =
        ReadObject(rest.substr(0, end), [&one](const std::string& name, std::string value) {
          if (name == "function") one.set_name(value);
          if (name == "kind") one.set_kind(value);
          if (name == "workers") one.set_workers(static_cast<std::uint32_t>(DecimalOf(value)));
          if (name == "runs") one.set_runs(DecimalOf(value));
          if (name == "failed") one.set_failed(DecimalOf(value));
          if (name == "busy_seconds") one.set_busy_seconds(Seconds(value));
          if (name == "cpu_seconds") one.set_cpu_seconds(Seconds(value));
          if (name == "peak_memory_bytes") one.set_peak_memory_bytes(DecimalOf(value));
        });
    if (read) functions.push_back(std::move(one));
    rest.remove_prefix(end + 1);
  }
  return functions;
}

}  // namespace tocsin
