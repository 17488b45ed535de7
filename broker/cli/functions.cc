// tocsin functions, tocsin runs [list|show].

#include <fmt/format.h>

#include <memory>
#include <string>

#include "broker/base/time_text.h"
#include "broker/cli/commands.h"
#include "broker/cli/schedule_output.h"
#include "broker/cli/session.h"

namespace tocsin::cli {
namespace {

struct RunFlags : SessionFlags {
  std::string function;
  std::string id;
  std::uint64_t limit = 20;
};

int Functions(Console& console, const SessionFlags& flags) {
  return WithClient(console, flags.connection, [&](Client& client) {
    const auto answer = client.ListFunctions();
    if (!answer.ok()) return console.Fail(answer.status());
    if (flags.output.json()) {
      JsonWriter json;
      json.Array();
      for (const v1::FunctionStatus& one : answer->functions()) {
        json.Object()
            .Field("name", one.name())
            .Field("kind", one.kind())
            .Field("workers", one.workers())
            .Field("runs", one.runs())
            .Field("failed", one.failed())
            .Field("busy_seconds", one.busy_seconds())
            .Field("cpu_seconds", one.cpu_seconds())
            .Field("peak_memory_bytes", one.peak_memory_bytes())
            .End();
      }
      json.End();
      console.Out(json);
      return kExitOk;
    }
    if (answer->functions().empty()) {
      console.Note("no functions: no worker is attached, and no local function has run");
      return kExitOk;
    }
    Table table({{"NAME"},
                 {"KIND"},
                 {"WORKERS", true},
                 {"RUNS", true},
                 {"FAILED", true},
                 {"BUSY", true},
                 {"CPU", true},
                 {"PEAK MEMORY", true}},
                console.table_look(), console.Sink());
    for (const v1::FunctionStatus& one : answer->functions()) {
      table.Row({Cell(one.name(), Tint::kCyan), one.kind(), std::to_string(one.workers()),
                 std::to_string(one.runs()), std::to_string(one.failed()),
                 fmt::format("{:.1f}s", one.busy_seconds()),
                 fmt::format("{:.1f}s", one.cpu_seconds()),
                 one.peak_memory_bytes() == 0 ? "" : FormatBytes(one.peak_memory_bytes())});
    }
    table.Finish();
    return kExitOk;
  });
}

int List(Console& console, const RunFlags& flags) {
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::ListRunsRequest request;
    request.set_function(flags.function);
    request.set_limit(static_cast<std::uint32_t>(flags.limit));
    JsonWriter json;
    if (flags.output.json()) json.Array();
    Table table(RunColumns(), console.table_look(), console.Sink());
    std::size_t count = 0;
    const absl::Status status = client.ListRuns(request, [&](const v1::RunStatus& run) {
      ++count;
      if (!flags.output.json()) return table.Row(RunRow(run));
      AppendRun(json, run, false);
      return console.Out(json);
    });
    if (!status.ok()) return console.Fail(status);
    if (flags.output.json()) {
      json.End();
      console.Out(json);
    } else {
      table.Finish();
      if (count == 0) console.Note("no runs are kept");
    }
    return kExitOk;
  });
}

int Show(Console& console, const RunFlags& flags) {
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::ListRunsRequest request;
    request.set_id(flags.id);
    v1::RunStatus run;
    const absl::Status status = client.ListRuns(request, [&run](const v1::RunStatus& one) {
      run = one;
      return true;
    });
    if (!status.ok()) return console.Fail(status);
    if (flags.output.json()) {
      JsonWriter json;
      AppendRun(json, run, true);
      console.Out(json);
      return kExitOk;
    }
    const auto line = [&console](std::string_view name, const std::string& value) {
      if (!value.empty()) console.Out(fmt::format("{:<12} {}\n", name, Clean(value)));
    };
    line("run", run.id());
    line("trigger", run.trigger());
    line("delivery", fmt::format("{}, attempt {}", run.delivery(), run.attempt()));
    line("event", run.event());
    line("started", run.started());
    line("took", fmt::format("{:.3f} s, {:.3f} s of CPU", run.seconds(), run.cpu_seconds()));
    line("memory", FormatBytes(run.peak_memory_bytes()));
    line("ended", run.ended());
    line("answer", run.answer());
    line("message", run.message());
    line("output", FormatBytes(run.output_bytes()));
    console.Out("\n");
    std::string output = run.output();
    if (!output.empty() && output.back() != '\n') output += '\n';
    console.Out(output);
    return kExitOk;
  });
}

}  // namespace

void AddFunctions(Command& root) {
  Command& functions =
      root.Add("functions", "show the functions that are served and what the local ones have used",
               "tocsin functions -o json");
  auto flags = std::make_shared<SessionFlags>();
  AddSession(functions, *flags);
  functions.run = [flags](Console& console) { return Functions(console, *flags); };

  Command& runs = root.Add("runs", "show what commands of local functions did, with their output",
                           "tocsin runs\ntocsin runs show report/0001769940000000-1-17-1");
  const auto add_list = [](Command& command) {
    auto list = std::make_shared<RunFlags>();
    command.options.push_back({"--function", &list->function, "NAME", "only those of this one"});
    command.options.push_back({"-n,--limit", &list->limit, "N", "the newest so many (default 20)"});
    AddSession(command, *list);
    command.run = [list](Console& console) { return List(console, *list); };
  };
  add_list(runs);
  add_list(runs.Add("list", "show the newest runs", "tocsin runs list --function report -n 100"));
  Command& show = runs.Add("show", "show a run and what it wrote",
                           "tocsin runs show report/0001769940000000-1-17-1");
  auto show_flags = std::make_shared<RunFlags>();
  show.positionals.push_back(
      {"RUN", &show_flags->id, "as `tocsin runs` names it", {}, true, false});
  AddSession(show, *show_flags);
  show.run = [show_flags](Console& console) { return Show(console, *show_flags); };
}

}  // namespace tocsin::cli
