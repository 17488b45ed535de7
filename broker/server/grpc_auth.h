// Who calls over gRPC: the identity of a call's connection and metadata.

#pragma once

#include <grpcpp/server_context.h>

#include "broker/server/auth.h"

namespace tocsin {

Caller CallerOf(const grpc::ServerContextBase& context);

grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace tocsin
