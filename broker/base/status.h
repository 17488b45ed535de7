// Helpers round absl::Status. Messages are built with fmt, because Debian's absl is built without
// std::string_view.

#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tocsin {

// True for outcomes that may be different on a later try: kUnavailable, kResourceExhausted,
// kDeadlineExceeded, kAborted. The one place that knows.
bool IsRetryable(const absl::Status& status);

// The same code with `prefix: ` before the message; OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view prefix);

inline std::string_view MessageOf(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

}  // namespace tocsin

#define TOCSIN_RETURN_IF_ERROR(expression)         \
  do {                                             \
    ::absl::Status tocsin_status = (expression);   \
    if (!tocsin_status.ok()) return tocsin_status; \
  } while (false)

#define TOCSIN_CONCAT_INNER(a, b) a##b
#define TOCSIN_CONCAT(a, b) TOCSIN_CONCAT_INNER(a, b)
#define TOCSIN_ASSIGN_OR_RETURN(lhs, expression) \
  TOCSIN_ASSIGN_OR_RETURN_IMPL(TOCSIN_CONCAT(tocsin_statusor_, __LINE__), lhs, expression)
#define TOCSIN_ASSIGN_OR_RETURN_IMPL(var, lhs, expression) \
  auto var = (expression);                                 \
  if (!var.ok()) return var.status();                      \
  lhs = std::move(var).value()
