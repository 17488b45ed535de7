// RunLog: the output of runs as files, one per attempt, bounded.
//
//   <dir>/<function>/<started>-<partition>-<offset>-<attempt>.log
//
// The first line is JSON: function, trigger, delivery, attempt, event, started, seconds, ended
// (how), answer, message, bytes (written by the command), cpu_seconds, peak_memory_bytes. Then what
// the command wrote: all of it, or the beginning and the end with a line between them that says how
// much is missing. Of a function the newest `runs_max` are kept. Output that cannot be written is
// lost, and said once; the run is not concerned.
//
// Threading: thread-safe; a RunOutput belongs to one thread.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "broker/base/clock.h"
#include "broker/base/mutex.h"
#include "local/usage_book.h"
#include "sdk/cpp/exec_worker.h"

namespace tocsin {

// The beginning and the end of what was written; together at most `bytes_max`.
class BoundedOutput {
 public:
  explicit BoundedOutput(std::size_t bytes_max) : half_(bytes_max / 2) {}

  void Write(std::string_view bytes);
  std::uint64_t written() const { return written_; }
  // With a line in the place of what is missing.
  std::string Text() const;

 private:
  std::size_t half_;
  std::string head_;
  std::string tail_;  // at most twice as long as it may be, cut in Text()
  std::uint64_t written_ = 0;
};

struct RunLogOptions {
  std::string dir;
  std::size_t runs_max = 200;  // of a function
  UsageBook* usage = nullptr;  // is told of each run; outlives the log
  std::function<void(const std::string&)> warn;
};

class RunLog {
 public:
  // `clock` must outlive it.
  RunLog(RunLogOptions options, const Clock& clock);

  std::unique_ptr<sdk::ExecOutput> Begin(const std::string& function, std::size_t bytes_max,
                                         const sdk::Event& event, const sdk::Context& context);

 private:
  friend class RunOutput;
  void Keep(const std::string& function, const std::string& name, const std::string& text);

  const RunLogOptions options_;
  const Clock& clock_;
  Mutex mutex_;
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tocsin
