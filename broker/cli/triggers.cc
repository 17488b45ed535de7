// tocsin triggers [list|pause|resume|apply|remove|forget].

#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "broker/cli/commands.h"
#include "broker/cli/input.h"
#include "broker/cli/session.h"

namespace tocsin::cli {
namespace {

using Request = v1::SetTriggerStateRequest;

constexpr std::size_t kApplyBytesMax = std::size_t{3} << 20;

struct Flags : SessionFlags {
  std::string name;
  bool dry_run = false;
  bool yes = false;
};

int List(Console& console, const SessionFlags& flags) {
  return WithClient(console, flags.connection, [&](Client& client) {
    const auto answer = client.ListTriggers();
    if (!answer.ok()) return console.Fail(answer.status());
    if (flags.output.json()) {
      WriteTriggersJson(*answer, console.Sink());
    } else if (answer->triggers().empty()) {
      console.Note("no triggers");
    } else {
      WriteTriggers(*answer, console.table_look(), console.Sink());
    }
    return kExitOk;
  });
}

void Report(Console& console, const Flags& flags, std::string_view action,
            const v1::SetTriggerStateResponse& answer) {
  if (flags.output.json()) {
    JsonWriter json;
    json.Object()
        .Field("name", flags.name)
        .Field("action", action)
        .Field("dry_run", flags.dry_run)
        .Field("pending", answer.pending())
        .Field("message", answer.message())
        .End();
    console.Out(json);
    return;
  }
  const std::string_view done = action == "pause"    ? "paused"
                                : action == "resume" ? "resumed"
                                : flags.dry_run      ? "would be forgotten"
                                                     : "forgotten";
  const std::string_view fate = action == "forget" ? "discarded" : "pending";
  console.Out(fmt::format("{}: {}, {} deliveries {}{}{}\n", Clean(flags.name), done,
                          answer.pending(), flags.dry_run ? "would be " : "", fate,
                          answer.message().empty() ? "" : "; " + Clean(answer.message())));
}

int Set(Console& console, const Flags& flags, std::string_view action, Request::Action value) {
  return WithClient(console, flags.connection, [&](Client& client) {
    Request request;
    request.set_name(flags.name);
    request.set_action(value);
    request.set_dry_run(flags.dry_run);
    const auto answer = client.SetTriggerState(request);
    if (!answer.ok()) return console.Fail(answer.status());
    Report(console, flags, action, *answer);
    return kExitOk;
  });
}

int Forget(Console& console, const Flags& flags) {
  if (!flags.dry_run && !flags.yes) {
    if (!console.in_is_terminal() || !console.err_is_terminal()) {
      return console.FailUsage("triggers forget",
                               "this discards the trigger's pending deliveries: see how many with "
                               "--dry-run, then give --yes");
    }
    std::uint64_t pending = 0;
    const int status = WithClient(console, flags.connection, [&](Client& client) {
      Request request;
      request.set_name(flags.name);
      request.set_action(Request::FORGET);
      request.set_dry_run(true);
      const auto answer = client.SetTriggerState(request);
      if (!answer.ok()) return console.Fail(answer.status());
      pending = answer->pending();
      return kExitOk;
    });
    if (status != kExitOk) return status;
    if (!console.Confirm(fmt::format("Forget trigger {} and discard its {} pending deliveries?",
                                     Clean(flags.name), pending))) {
      return console.Fail("nothing was forgotten");
    }
  }
  return Set(console, flags, "forget", Request::FORGET);
}

void AddChange(Command& triggers, std::string_view action, Request::Action value,
               const char* summary) {
  Command& command = triggers.Add(std::string(action), summary,
                                  fmt::format("tocsin triggers {} import-new-files", action));
  auto flags = std::make_shared<Flags>();
  command.positionals.push_back({"NAME", &flags->name, "the trigger", {}, true, false});
  AddSession(command, *flags);
  command.run = [flags, action, value](Console& console) {
    return Set(console, *flags, action, value);
  };
}

struct ApplyFlags : SessionFlags {
  std::string file;
  bool dry_run = false;
  std::vector<std::string> names;
};

int Apply(Console& console, const ApplyFlags& flags) {
  const absl::StatusOr<std::string> text = ReadWhole(flags.file, kApplyBytesMax);
  if (!text.ok()) return console.Fail(text.status());
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::ApplyTriggersRequest request;
    request.set_text(*text);
    request.set_file(flags.file == "-" ? "stdin" : flags.file);
    request.set_dry_run(flags.dry_run);
    const auto answer = client.ApplyTriggers(request);
    if (!answer.ok()) return console.Fail(answer.status());
    if (flags.output.json()) {
      JsonWriter json;
      json.Object().Field("dry_run", flags.dry_run).Key("changes").Array();
      for (const std::string& change : answer->changes()) json.Value(change);
      json.End().Key("errors").Array();
      for (const std::string& error : answer->errors()) json.Value(error);
      json.End().End();
      console.Out(json);
    } else {
      for (const std::string& error : answer->errors()) console.Note(Clean(error));
      for (const std::string& change : answer->changes()) console.Out(Clean(change) + "\n");
      if (answer->errors().empty() && answer->changes().empty()) console.Note("nothing to change");
    }
    return answer->errors().empty() ? kExitOk : kExitFailed;
  });
}

int Remove(Console& console, const ApplyFlags& flags) {
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::RemoveTriggersRequest request;
    for (const std::string& name : flags.names) request.add_names(name);
    const auto answer = client.RemoveTriggers(request);
    if (!answer.ok()) return console.Fail(answer.status());
    if (flags.output.json()) {
      JsonWriter json;
      json.Object().Key("removed").Array();
      for (const std::string& name : flags.names) json.Value(name);
      json.End().End();
      console.Out(json);
      return kExitOk;
    }
    for (const std::string& name : flags.names) {
      console.Out(
          fmt::format("{}: removed; what is pending is kept until `tocsin triggers forget {}`\n",
                      Clean(name), Clean(name)));
    }
    return kExitOk;
  });
}

void AddApply(Command& triggers) {
  Command& apply =
      triggers.Add("apply", "add or change triggers of the running broker, which keeps them",
                   "tocsin triggers apply -f more-triggers.yaml");
  auto flags = std::make_shared<ApplyFlags>();
  apply.options.push_back({.names = "-f,--file",
                           .target = &flags->file,
                           .value = "FILE",
                           .help = "YAML with `triggers`, as in the configuration; - is standard "
                                   "input",
                           .required = true,
                           .is_file = true});
  apply.options.push_back({"--dry-run", &flags->dry_run, "", "only say what would change"});
  AddSession(apply, *flags);
  apply.run = [flags](Console& console) { return Apply(console, *flags); };

  Command& remove = triggers.Add("remove", "take away triggers that were applied",
                                 "tocsin triggers remove one another");
  auto remove_flags = std::make_shared<ApplyFlags>();
  remove.positionals.push_back({"NAME", &remove_flags->names, "the triggers", {}, true, false});
  AddSession(remove, *remove_flags);
  remove.run = [remove_flags](Console& console) { return Remove(console, *remove_flags); };
}

}  // namespace

void AddTriggers(Command& root) {
  Command& triggers =
      root.Add("triggers", "show the triggers and their books; pause, resume, apply, forget",
               "tocsin triggers -o json\ntocsin triggers pause import-new-files");
  auto flags = std::make_shared<SessionFlags>();
  AddSession(triggers, *flags);
  triggers.run = [flags](Console& console) { return List(console, *flags); };

  Command& list = triggers.Add("list", "show the triggers and their books", "tocsin triggers list");
  auto list_flags = std::make_shared<SessionFlags>();
  AddSession(list, *list_flags);
  list.run = [list_flags](Console& console) { return List(console, *list_flags); };

  AddChange(triggers, "pause", Request::PAUSE, "deliver nothing more until it is resumed");
  AddChange(triggers, "resume", Request::RESUME, "deliver again, from where it was paused");

  AddApply(triggers);

  Command& forget = triggers.Add("forget", "discard a detached trigger and what is pending for it",
                                 "tocsin triggers forget old-import --dry-run");
  auto forget_flags = std::make_shared<Flags>();
  forget.positionals.push_back({"NAME", &forget_flags->name, "the trigger", {}, true, false});
  forget.options.push_back(
      {"--dry-run", &forget_flags->dry_run, "", "only say what would be discarded"});
  forget.options.push_back({"--yes", &forget_flags->yes, "", "do not ask"});
  AddSession(forget, *forget_flags);
  forget.run = [forget_flags](Console& console) { return Forget(console, *forget_flags); };
}

}  // namespace tocsin::cli
