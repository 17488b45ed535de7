// tocsin reload.

#include <memory>

#include "broker/cli/commands.h"
#include "broker/cli/session.h"

namespace tocsin::cli {

void AddReload(Command& root) {
  Command& command =
      root.Add("reload", "make the broker read its configuration again; a bad one changes nothing",
               "tocsin reload");
  auto flags = std::make_shared<SessionFlags>();
  AddSession(command, *flags);
  command.run = [flags](Console& console) {
    return WithClient(console, flags->connection, [&](Client& client) {
      const auto answer = client.Reload();
      if (!answer.ok()) return console.Fail(answer.status());
      if (flags->output.json()) {
        JsonWriter json;
        json.Object().Field("ok", answer->errors().empty()).Key("changes").Array();
        for (const std::string& change : answer->changes()) json.Value(change);
        json.End().Key("errors").Array();
        for (const std::string& error : answer->errors()) json.Value(error);
        json.End().End();
        console.Out(json);
      } else {
        for (const std::string& change : answer->changes()) console.Out(Clean(change) + "\n");
      }
      for (const std::string& error : answer->errors()) console.Note(Clean(error));
      if (!answer->errors().empty()) {
        return console.Fail(
            "reload: nothing was changed; correct what is named above and try again");
      }
      if (answer->changes().empty()) console.Note("no changes");
      return kExitOk;
    });
  };
}

}  // namespace tocsin::cli
