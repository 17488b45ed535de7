#include "connectors/file/file_spec.h"

#include <fmt/format.h>

#include "broker/base/status.h"

namespace tocsin {

absl::Status ValidateFileSpec(const FileSpec& spec) {
  const auto invalid = [](std::string_view option, std::string_view rule) {
    return absl::InvalidArgumentError(fmt::format("`{}` {}", option, rule));
  };
  if (spec.path.empty()) return invalid("path", "is empty: name the directory to watch");
  for (const std::string& glob : spec.include) {
    TOCSIN_RETURN_IF_ERROR(Annotate(ValidateGlob(glob), "`include`"));
  }
  for (const std::string& glob : spec.exclude) {
    TOCSIN_RETURN_IF_ERROR(Annotate(ValidateGlob(glob), "`exclude`"));
  }
  if (spec.settle < Duration::zero() || spec.settle > std::chrono::hours(1)) {
    return invalid("settle", "is at most 1h");
  }
  if (spec.rescan < std::chrono::milliseconds(100) || spec.rescan > std::chrono::hours(24)) {
    return invalid("rescan", "is from 100ms to 1d");
  }
  if (spec.after == AfterFile::kMove && spec.move_to.empty()) {
    return invalid("after", "is move: name the directory in `move_to`");
  }
  if (spec.after != AfterFile::kMove && !spec.move_to.empty()) {
    return invalid("move_to", "needs `after: move`");
  }
  if (!spec.on_created && !spec.on_modified && !spec.on_deleted) {
    return invalid("on", "is empty: nothing would make an event");
  }
  return absl::OkStatus();
}

}  // namespace tocsin
