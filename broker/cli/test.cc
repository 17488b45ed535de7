// tocsin test FILE...

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/cli/commands.h"
#include "broker/cli/input.h"
#include "broker/cli/junit.h"
#include "broker/cli/session.h"
#include "broker/config/trigger_tests.h"
#include "broker/server/trigger_test_run.h"

namespace tocsin::cli {
namespace {

struct Flags {
  std::vector<std::string> files;
  std::string junit;
  std::string only;
  bool verbose = false;
  OutputFlags output;
};

// Of one file: its errors, or its tests.
struct FileResult {
  std::string file;
  std::vector<ConfigError> errors;
  std::vector<TestResult> tests;
};

std::string PlaceOf(const FileResult& file, const TestFailure& failure) {
  return fmt::format("{}:{}:{}", file.file, failure.location.line, failure.location.column);
}

std::string TextOf(const FileResult& file, const TestFailure& failure) {
  return fmt::format("{}: {} {}: {}", PlaceOf(file, failure), failure.trigger, failure.event,
                     failure.message);
}

absl::StatusOr<FileResult> RunFile(const std::string& path, const std::string& only) {
  FileResult result;
  result.file = path;
  const auto file = LoadTriggerTests(path, SystemConfigEnvironment(), &result.errors);
  if (!file.ok()) return result;
  for (const TriggerTest& test : file->tests) {
    if (test.name.find(only) == std::string::npos) continue;
    TOCSIN_ASSIGN_OR_RETURN(TestResult ran, RunTriggerTest(file->config, test));
    result.tests.push_back(std::move(ran));
  }
  return result;
}

void Print(Console& console, const FileResult& file, bool verbose) {
  const bool colored = console.out_colored();
  for (const ConfigError& error : file.errors) console.Note(error.ToString());
  console.Out(Clean(file.file) + "\n");
  for (const TestResult& test : file.tests) {
    console.Out(fmt::format("  {} {}\n",
                            test.failures.empty() ? Paint(colored, Tint::kGreen, "ok  ")
                                                  : Paint(colored, Tint::kRed, "FAIL"),
                            Clean(test.name)));
    for (const TestFailure& failure : test.failures) {
      console.Out(fmt::format("       {}\n", Clean(TextOf(file, failure))));
    }
    if (!verbose) continue;
    for (const DeliverySeen& seen : test.deliveries) {
      console.Out(
          Clean(fmt::format("       {} {}: {}", seen.trigger, seen.event, DescribeDelivery(seen))) +
          "\n");
    }
  }
}

void AppendJson(JsonWriter& json, const FileResult& file, const TestResult& test) {
  json.Object()
      .Field("file", file.file)
      .Field("name", test.name)
      .Field("passed", test.failures.empty())
      .Field("for", FormatDuration(test.span))
      .Key("failures")
      .Array();
  for (const TestFailure& failure : test.failures) {
    json.Object()
        .Field("line", static_cast<std::uint64_t>(failure.location.line))
        .Field("column", static_cast<std::uint64_t>(failure.location.column))
        .Field("trigger", failure.trigger)
        .Field("event", failure.event)
        .Field("message", failure.message)
        .End();
  }
  json.End().Key("deliveries").Array();
  for (const DeliverySeen& seen : test.deliveries) {
    json.Object()
        .Field("trigger", seen.trigger)
        .Field("event", seen.event)
        .Field("outcome", ExpectedOutcomeName(seen.outcome))
        .Key("attempts")
        .Array();
    for (const AttemptSeen& attempt : seen.attempts) {
      json.Object().Field("at", FormatDuration(attempt.at)).Field("answer", attempt.answer).End();
    }
    json.End();
    if (!seen.reason.empty()) {
      json.Field("reason", seen.reason).Field("message", seen.message);
    }
    if (!seen.received.empty()) json.Key("received").Raw(seen.received);
    json.End();
  }
  json.End().End();
}

void PrintJson(Console& console, const std::vector<FileResult>& files, std::size_t passed,
               std::size_t failed) {
  JsonWriter json;
  json.Object().Key("tests").Array();
  for (const FileResult& file : files) {
    for (const TestResult& test : file.tests) AppendJson(json, file, test);
  }
  json.End().Key("errors").Array();
  for (const FileResult& file : files) {
    for (const ConfigError& error : file.errors) {
      json.Object()
          .Field("file", error.file)
          .Field("line", static_cast<std::uint64_t>(error.line))
          .Field("column", static_cast<std::uint64_t>(error.column))
          .Field("code", error.code)
          .Field("message", error.message)
          .End();
    }
  }
  json.End().Field("passed", passed).Field("failed", failed).End();
  console.Out(json);
}

absl::Status WriteJunit(const std::string& path, const std::vector<FileResult>& files) {
  std::vector<JunitSuite> suites;
  for (const FileResult& file : files) {
    JunitSuite& suite = suites.emplace_back();
    suite.name = file.file;
    for (const ConfigError& error : file.errors) suite.errors.push_back(error.ToString());
    for (const TestResult& test : file.tests) {
      JunitCase& made = suite.cases.emplace_back();
      made.name = test.name;
      for (const TestFailure& failure : test.failures) {
        made.failures.push_back(TextOf(file, failure));
      }
    }
  }
  return WriteWhole(path, JunitXml(suites));
}

int Run(Console& console, const Flags& flags) {
  std::vector<FileResult> files;
  std::size_t passed = 0;
  std::size_t failed = 0;
  std::size_t broken = 0;
  for (const std::string& path : flags.files) {
    absl::StatusOr<FileResult> result = RunFile(path, flags.only);
    if (!result.ok()) return console.Fail(result.status());
    broken += result->errors.empty() ? 0 : 1;
    for (const TestResult& test : result->tests) ++(test.failures.empty() ? passed : failed);
    if (!flags.output.json()) Print(console, *result, flags.verbose);
    files.push_back(*std::move(result));
  }
  if (flags.output.json()) PrintJson(console, files, passed, failed);
  if (!flags.junit.empty()) {
    const absl::Status written = WriteJunit(flags.junit, files);
    if (!written.ok()) return console.Fail(written);
  }
  if (!flags.output.json()) {
    console.Out(fmt::format("{} passed, {} failed{}\n", passed, failed,
                            broken == 0 ? "" : fmt::format(", {} files with errors", broken)));
  }
  if (passed + failed == 0 && broken == 0) {
    return console.Fail(fmt::format("no test's name has '{}' in it", flags.only));
  }
  return failed + broken == 0 ? kExitOk : kExitFailed;
}

}  // namespace

void AddTest(Command& root) {
  Command& command =
      root.Add("test", "run trigger tests: events in, expected deliveries out; no server",
               "tocsin test triggers_test.yaml\n"
               "tocsin test tests/*.yaml --junit report.xml");
  auto flags = std::make_shared<Flags>();
  command.positionals.push_back({.name = "FILE",
                                 .target = &flags->files,
                                 .help = "files of trigger tests (docs/trigger-tests.md)",
                                 .is_file = true});
  command.options.push_back({.names = "--junit",
                             .target = &flags->junit,
                             .value = "FILE",
                             .help = "write the results there, for CI",
                             .is_file = true});
  command.options.push_back({.names = "--only",
                             .target = &flags->only,
                             .value = "TEXT",
                             .help = "tests whose names contain it"});
  command.options.push_back({.names = "-v,--verbose",
                             .target = &flags->verbose,
                             .value = "",
                             .help = "what became of every delivery"});
  AddOutput(command, flags->output);
  command.run = [flags](Console& console) { return Run(console, *flags); };
}

}  // namespace tocsin::cli
