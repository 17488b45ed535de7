// JUnit XML, the form in which CI systems read test results. Pure.

#pragma once

#include <string>
#include <vector>

namespace tocsin::cli {

struct JunitCase {
  std::string name;
  std::vector<std::string> failures;  // empty: it passed
};

struct JunitSuite {
  std::string name;
  std::vector<JunitCase> cases;
  std::vector<std::string> errors;  // why its tests could not run; counted as one test more
};

// The document. What XML cannot hold is written as Clean() of style.h writes it.
std::string JunitXml(const std::vector<JunitSuite>& suites);

}  // namespace tocsin::cli
