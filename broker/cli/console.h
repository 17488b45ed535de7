// The process's standard streams and what may be shown on them; and the wish to stop.
//
// Standard output carries the result and nothing else; standard error all the rest. Colours only
// where the stream is a terminal and NO_COLOR is not set (or TERM is not `dumb`). A reader that
// went away (`tocsin tail | head`) is no error: Out() says false and the command ends with status
// 0.
//
// Threading: one thread; the signal handlers only set a flag.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "broker/cli/json_writer.h"
#include "broker/cli/style.h"
#include "broker/cli/table.h"

namespace tocsin::cli {

class Console {
 public:
  // Takes over SIGPIPE: a write to a closed pipe is an error of that write.
  Console();
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  bool out_is_terminal() const { return out_is_terminal_; }
  bool err_is_terminal() const { return err_is_terminal_; }
  bool in_is_terminal() const { return in_is_terminal_; }
  bool out_colored() const { return out_colored_; }
  bool err_colored() const { return err_colored_; }
  std::size_t out_width() const { return out_width_; }  // columns; 0 in a pipe
  TableLook table_look() const { return {out_colored_, out_width_}; }

  // Buffers up to 64 KiB. False: nobody reads standard output any more, or it cannot be written.
  bool Out(std::string_view text);
  bool Flush();

  // Writes what `json` holds.
  bool Out(JsonWriter& json) { return Out(json.Take()); }

  Table::Sink Sink() {
    return [this](std::string_view text) { return Out(text); };
  }

  // A line of the person's: the progress line, if one is shown, makes room.
  void Note(std::string_view text);
  void Warn(std::string_view text);  // `warning: ` before it
  // `tocsin: ` before it; gives kExitFailed, so that a command can return it.
  int Fail(std::string_view text);
  int Fail(const absl::Status& status);
  // For what the parser cannot see; gives kExitUsage.
  int FailUsage(std::string_view command, std::string_view text);

  // Redraws the progress line, at most ten times a second; nothing unless stderr is a terminal.
  void ShowProgress(const Progress& progress);
  void ClearProgress();

  // Asks on the terminal; true for y or yes. Only if in_is_terminal() and err_is_terminal().
  bool Confirm(std::string_view question);

  // The exit status after everything: `status`, but kExitFailed with a message if the output could
  // not be written (a reader that went away does not count).
  int Finish(int status);

 private:
  bool out_is_terminal_ = false;
  bool err_is_terminal_ = false;
  bool in_is_terminal_ = false;
  bool out_colored_ = false;
  bool err_colored_ = false;
  std::size_t out_width_ = 0;
  std::size_t err_width_ = 0;

  std::string buffer_;
  bool reader_gone_ = false;
  int write_errno_ = 0;
  bool progress_shown_ = false;
  std::int64_t progress_drawn_ms_ = 0;
};

// From now on SIGINT and SIGTERM set Interrupted() instead of ending the process; a second one ends
// it. Commands that stream call it, so that they can end their output well.
void CatchInterrupts();
bool Interrupted();

// Milliseconds of the monotonic clock.
std::int64_t NowMs();

// Waits, or returns early when interrupted.
void WaitMs(std::int64_t milliseconds);

}  // namespace tocsin::cli
