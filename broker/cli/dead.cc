// tocsin dead list|show|redrive|discard.

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <utility>

#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/time_text.h"
#include "broker/cli/commands.h"
#include "broker/cli/moment.h"
#include "broker/cli/session.h"

namespace tocsin::cli {
namespace {

using Close = v1::CloseLettersRequest;

struct Flags : SessionFlags {
  std::vector<std::string> ids;
  std::string trigger;
  std::string reason;
  std::string key;
  std::string since;
  std::string until;
  std::uint64_t limit = 0;
  bool with_event = false;
  bool all = false;
  bool dry_run = false;
  bool yes = false;
  double rate = 0;

  bool Filters() const {
    return !ids.empty() || !trigger.empty() || !reason.empty() || !key.empty() || !since.empty() ||
           !until.empty();
  }
};

void AddFilters(Command& command, Flags& flags) {
  auto& options = command.options;
  options.push_back({"--id", &flags.ids, "ID", "this letter; may be given again"});
  options.push_back({"--trigger", &flags.trigger, "NAME", "letters of this trigger"});
  Option reason{"--reason", &flags.reason, "REASON", "letters of this reason"};
  reason.choices = {"exhausted", "rejected", "expired", "undecodable", "refused"};
  options.push_back(std::move(reason));
  options.push_back({"--key", &flags.key, "KEY", "letters whose event has this partitionkey"});
  options.push_back(
      {"--since", &flags.since, "TIME", "died at or after: RFC 3339, or 1h for an hour ago"});
  options.push_back(
      {"--until", &flags.until, "TIME", "died before: RFC 3339, or 1h for an hour ago"});
  options.push_back(
      {"-n,--limit", &flags.limit, "N", "at most so many letters (default: no limit)"});
}

absl::StatusOr<v1::LetterFilter> FilterOf(const Flags& flags) {
  v1::LetterFilter filter;
  for (const std::string& id : flags.ids) filter.add_ids(id);
  filter.set_trigger(flags.trigger);
  filter.set_reason(flags.reason);
  filter.set_key(flags.key);
  TOCSIN_ASSIGN_OR_RETURN(const std::int64_t since, ParseMoment(flags.since, "--since"));
  TOCSIN_ASSIGN_OR_RETURN(const std::int64_t until, ParseMoment(flags.until, "--until"));
  if (flags.limit > UINT32_MAX) return absl::InvalidArgumentError("--limit: too large");
  filter.set_since_us(since);
  filter.set_until_us(until);
  filter.set_limit(static_cast<std::uint32_t>(flags.limit));
  return filter;
}

int List(Console& console, const Flags& flags) {
  const auto filter = FilterOf(flags);
  if (!filter.ok()) return console.FailUsage("dead list", MessageOf(filter.status()));
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::ListLettersRequest request;
    *request.mutable_filter() = *filter;
    request.set_with_event(flags.with_event && !flags.output.text());
    Table table = LetterTable(console.table_look(), console.Sink());
    JsonWriter document;
    if (flags.output.json()) document.Array();
    std::uint64_t count = 0;
    CatchInterrupts();
    const absl::Status status = client.ListLetters(request, [&](const v1::Letter& letter) {
      ++count;
      if (flags.output.text()) return table.Row(LetterRow(letter));
      if (flags.output.json()) {
        AppendLetter(document, letter);
        return console.Out(document);
      }
      JsonWriter line(JsonWriter::Layout::kLine);
      AppendLetter(line, letter);
      return console.Out(line);
    });
    if (flags.output.text()) table.Finish();
    if (flags.output.json()) {
      document.End();
      console.Out(document);
    }
    if (!status.ok()) return console.Fail(status);
    if (count == 0) console.Note("no dead letters");
    return kExitOk;
  });
}

int Show(Console& console, const Flags& flags, const std::string& id) {
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::ListLettersRequest request;
    request.mutable_filter()->add_ids(id);
    request.set_with_event(true);
    v1::Letter found;
    bool any = false;
    const absl::Status status = client.ListLetters(request, [&](const v1::Letter& letter) {
      found = letter;
      any = true;
      return false;
    });
    if (!status.ok()) return console.Fail(status);
    if (!any) {
      return console.Fail(fmt::format(
          "there is no open dead letter {}; `tocsin dead list` shows those there are", Clean(id)));
    }
    if (flags.output.json()) {
      JsonWriter json;
      AppendLetter(json, found);
      console.Out(json);
    } else {
      WriteLetter(found, console.table_look(), console.Sink());
    }
    return kExitOk;
  });
}

// Writes the closed letters as they come and the sums at the end.
class CloseReport {
 public:
  CloseReport(Console& console, const Flags& flags, bool redrive)
      : console_(console), flags_(flags), redrive_(redrive), began_ms_(NowMs()) {
    if (!flags.output.json()) return;
    json_.Object().Field("action", redrive ? "redrive" : "discard").Field("dry_run", flags.dry_run);
    json_.Key("letters").Array();
  }

  bool Add(const v1::CloseLettersProgress& progress) {
    done_ = progress.done();
    total_ = progress.total();
    bool reading = true;
    if (!progress.id().empty()) {
      failed_ += progress.error().empty() ? 0 : 1;
      reading = Letter(progress.id(), progress.error());
    }
    console_.ShowProgress({done_, total_, NowMs() - began_ms_, "letters"});
    return reading;
  }

  int Finish(const absl::Status& status) {
    console_.ClearProgress();
    if (flags_.output.json()) {
      json_.End().Field("done", done_).Field("total", total_).Field("failed", failed_).End();
      console_.Out(json_);
    } else if (status.ok()) {
      console_.Note(Sums());
    }
    if (!status.ok()) {
      return console_.Fail(fmt::format("{}; {} of {} letters were closed before", MessageOf(status),
                                       done_ - failed_, total_));
    }
    if (total_ < flags_.ids.size()) {
      return console_.Fail(fmt::format("{} of the {} letters named are not there, or not open",
                                       flags_.ids.size() - total_, flags_.ids.size()));
    }
    if (failed_ == 0) return kExitOk;
    return console_.Fail(
        fmt::format("{} letters could not be {}; they stay open", failed_, Word()));
  }

 private:
  std::string_view Word() const { return redrive_ ? "redriven" : "discarded"; }

  std::string Sums() const {
    if (total_ == 0) return "no dead letters are left that fit";
    return fmt::format("{} of {} letters {}{}", done_ - failed_, total_,
                       flags_.dry_run ? "would be " : "", Word());
  }

  bool Letter(const std::string& id, const std::string& error) {
    if (flags_.output.json()) {
      json_.Object().Field("id", id).Key("error");
      if (error.empty()) {
        json_.Null();
      } else {
        json_.Value(error);
      }
      json_.End();
      return console_.Out(json_);
    }
    if (!error.empty()) {
      console_.Note(fmt::format("{}: {}", Clean(id), Clean(error)));
      return true;
    }
    return console_.Out(Clean(id) + "\n");
  }

  Console& console_;
  const Flags& flags_;
  bool redrive_;
  std::int64_t began_ms_;
  JsonWriter json_;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  std::uint64_t failed_ = 0;
};

int CloseAll(Console& console, const Flags& flags, Close::Action action) {
  const bool redrive = action == Close::REDRIVE;
  const std::string path = redrive ? "dead redrive" : "dead discard";
  if (flags.Filters() == flags.all) {
    return console.FailUsage(path, flags.all
                                       ? "--all and a filter exclude each other"
                                       : "say which letters: --id, --trigger, --reason, --key, "
                                         "--since, --until, or --all");
  }
  if (flags.rate < 0) return console.FailUsage(path, "--rate: at least 0");
  const auto filter = FilterOf(flags);
  if (!filter.ok()) return console.FailUsage(path, MessageOf(filter.status()));
  if (!redrive && flags.all && !flags.dry_run && !flags.yes) {
    if (!console.in_is_terminal() || !console.err_is_terminal()) {
      return console.FailUsage(path,
                               "this discards every dead letter: see them with --dry-run, then "
                               "give --yes");
    }
    if (!console.Confirm("Discard every dead letter?"))
      return console.Fail("nothing was discarded");
  }
  return WithClient(console, flags.connection, [&](Client& client) {
    Close request;
    *request.mutable_filter() = *filter;
    request.set_action(action);
    request.set_dry_run(flags.dry_run);
    request.set_rate(flags.rate);
    CatchInterrupts();
    CloseReport report(console, flags, redrive);
    // A reader of our output that went away must not stop what was ordered half-way.
    const absl::Status status = client.CloseLetters(request, [&](const auto& progress) {
      report.Add(progress);
      return true;
    });
    return report.Finish(status);
  });
}

void AddClose(Command& dead, const char* name, const char* summary, const char* example,
              Close::Action action) {
  Command& command = dead.Add(name, summary, example);
  auto flags = std::make_shared<Flags>();
  command.positionals.push_back({"ID", &flags->ids, "letters, as --id", {}, false, false});
  AddFilters(command, *flags);
  command.options.push_back({"--all", &flags->all, "", "every open letter"});
  command.options.push_back(
      {"--dry-run", &flags->dry_run, "", "only show which letters these are"});
  command.options.push_back(
      {"--rate", &flags->rate, "N", "letters a second (default: as fast as it goes)"});
  if (action == Close::DISCARD) {
    command.options.push_back({"--yes", &flags->yes, "", "do not ask before --all"});
  }
  AddSession(command, *flags);
  command.run = [flags, action](Console& console) { return CloseAll(console, *flags, action); };
}

}  // namespace

void AddDead(Command& root) {
  Command& dead = root.Add("dead", "list, show, redrive or discard dead letters",
                           "tocsin dead list --since 1h\ntocsin dead redrive --trigger import");

  Command& list = dead.Add("list", "list open dead letters",
                           "tocsin dead list --trigger import --reason exhausted --since 1h");
  auto list_flags = std::make_shared<Flags>();
  AddFilters(list, *list_flags);
  list.options.push_back(
      {"--with-event", &list_flags->with_event, "", "with -o json or jsonl: the events too"});
  AddSession(list, *list_flags, true);
  list.run = [list_flags](Console& console) { return List(console, *list_flags); };

  Command& show = dead.Add("show", "show one dead letter: its attempts and its event",
                           "tocsin dead show 1/4711/3/0");
  auto show_flags = std::make_shared<Flags>();
  auto id = std::make_shared<std::string>();
  show.positionals.push_back({"ID", id.get(), "the letter", {}, true, false});
  AddSession(show, *show_flags);
  show.run = [show_flags, id](Console& console) { return Show(console, *show_flags, *id); };

  AddClose(dead, "redrive", "deliver again: each letter becomes a new delivery of its trigger",
           "tocsin dead redrive --trigger import --rate 50\ntocsin dead redrive 1/4711/3/0",
           Close::REDRIVE);
  AddClose(dead, "discard", "close letters without another delivery",
           "tocsin dead discard --reason rejected --dry-run", Close::DISCARD);
}

}  // namespace tocsin::cli
