#include "broker/server/grpc_auth.h"

#include <grpcpp/security/auth_context.h>

#include <string>

#include "broker/base/status.h"

namespace tocsin {

Caller CallerOf(const grpc::ServerContextBase& context) {
  Caller caller;
  const auto& metadata = context.client_metadata();
  const auto entry = metadata.find("authorization");
  // Two authorization entries are no identity: which one counts would be a guess.
  if (entry != metadata.end() && metadata.count("authorization") == 1) {
    caller.bearer = BearerToken({entry->second.data(), entry->second.size()});
  }
  const auto connection = context.auth_context();
  caller.certificate_verified = connection != nullptr && connection->IsPeerAuthenticated();
  return caller;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(MessageOf(status))};
}

}  // namespace tocsin
