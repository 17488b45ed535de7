#include "broker/cli/junit.h"

#include <fmt/format.h>

#include <string_view>

#include "broker/cli/style.h"

namespace tocsin::cli {
namespace {

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : Clean(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// The first line as the message, all of them as the text.
void AppendProblem(std::string& out, std::string_view kind, const std::vector<std::string>& lines) {
  out += fmt::format("      <{} message=\"{}\">", kind, Escaped(lines.front()));
  for (const std::string& line : lines) out += Escaped(line) + '\n';
  out += fmt::format("</{}>\n", kind);
}

void AppendCase(std::string& out, const std::string& suite, const std::string& name,
                std::string_view kind, const std::vector<std::string>& problems) {
  out += fmt::format("    <testcase classname=\"{}\" name=\"{}\"", Escaped(suite), Escaped(name));
  if (problems.empty()) {
    out += "/>\n";
    return;
  }
  out += ">\n";
  AppendProblem(out, kind, problems);
  out += "    </testcase>\n";
}

}  // namespace

std::string JunitXml(const std::vector<JunitSuite>& suites) {
  std::string body;
  std::size_t tests = 0;
  std::size_t failures = 0;
  std::size_t errors = 0;
  for (const JunitSuite& suite : suites) {
    std::size_t failed = 0;
    for (const JunitCase& one : suite.cases) failed += one.failures.empty() ? 0 : 1;
    const std::size_t broken = suite.errors.empty() ? 0 : 1;
    body += fmt::format("  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\">\n",
                        Escaped(suite.name), suite.cases.size() + broken, failed, broken);
    if (broken > 0) AppendCase(body, suite.name, "the file can be read", "error", suite.errors);
    for (const JunitCase& one : suite.cases) {
      AppendCase(body, suite.name, one.name, "failure", one.failures);
    }
    body += "  </testsuite>\n";
    tests += suite.cases.size() + broken;
    failures += failed;
    errors += broken;
  }
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<testsuites name=\"tocsin test\" tests=\"{}\" failures=\"{}\" errors=\"{}\">\n{}"
      "</testsuites>\n",
      tests, failures, errors, body);
}

}  // namespace tocsin::cli
