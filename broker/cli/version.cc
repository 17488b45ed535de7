// tocsin version.

#include <memory>

#include "broker/cli/commands.h"
#include "broker/cli/console.h"
#include "broker/cli/output.h"

namespace tocsin::cli {

std::string VersionText() { return TOCSIN_VERSION; }

void AddVersion(Command& root) {
  Command& command = root.Add("version", "print the version of this program", "tocsin version");
  auto flags = std::make_shared<OutputFlags>();
  AddOutput(command, *flags);
  command.run = [flags](Console& console) {
    if (flags->json()) {
      JsonWriter json;
      json.Object().Field("version", VersionText()).End();
      console.Out(json);
    } else {
      console.Out("tocsin " + VersionText() + "\n");
    }
    return kExitOk;
  };
}

}  // namespace tocsin::cli
