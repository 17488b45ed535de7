// ZeromqConnector: a ZeroMQ socket as a source.
//
// pull, sub: at most once until what came is in the journal, for ZeroMQ keeps nothing of what it
// has handed over. rep: a client is answered when its event is durable (or, undecodable, when its
// dead letter is), so it may send again what was not answered; with ids of its own (CloudEvents)
// the broker's dedupe set makes that once. Several clients are served at a time: behind `rep` is a
// ROUTER socket, which speaks the same protocol.
//
//   answers   {"ok":true}      {"ok":false,"error":"..."}
//
// While the broker is full nothing is taken from the socket: up to `high_water_mark` messages wait
// in memory, then ZeroMQ holds its peers back (push blocks, pub drops).
//
// The sockets live as long as the connector: a failure of the broker does not disconnect anybody.
// ZeroMQ connects again by itself; what its monitor tells is shown as the lane's note.
//
// Threading: as BlockingConnector says.

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "connectors/blocking_connector.h"
#include "connectors/record_event.h"
#include "connectors/zeromq/zeromq_spec.h"

namespace tocsin {

//   kInvalidArgument  a template of the `event:` block
absl::StatusOr<std::unique_ptr<SourceConnector>> MakeZeromqConnector(
    const ZeromqSpec& spec, BlockingConnector::Ports ports);

// Binds and unbinds, or connects for up to three seconds: one line of what came of it. A bound
// endpoint that is in use may be that of the running broker.
absl::StatusOr<std::string> CheckZeromq(const ZeromqSpec& spec, const Clock& clock);

// The parts of what came, by the spec; what is absent stays so.
struct ZeromqParts {
  std::optional<std::string_view> topic, key, attributes, data;
};
//   kInvalidArgument  as many parts as nobody expects
absl::StatusOr<ZeromqParts> SplitParts(const std::vector<ZeromqPart>& wanted,
                                       const std::vector<std::string_view>& parts);

}  // namespace tocsin
