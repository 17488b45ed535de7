// Authorizer: the one function that decides whether a caller may do something. Every path calls it:
// publish, attach, each admin call, metrics.
//
// Identity comes from the connection and its metadata alone: a bearer token, or a client
// certificate that was verified against `client_ca`. A caller may do what any of his identities
// may. Without tokens and without client_ca the broker is open; Server::Start allows that on
// loopback listeners, or with `insecure: true`.
//
// Threading: thread-safe.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/mutex.h"

namespace tocsin {

enum class Scope : std::uint8_t { kPublish = 1, kWork = 2, kAdmin = 4 };
std::string_view ScopeName(Scope scope);
// nullopt for any but publish, work, admin.
std::optional<Scope> ParseScope(std::string_view name);

// A set of scopes.
class Scopes {
 public:
  constexpr Scopes() = default;
  static constexpr Scopes All() { return Scopes(7); }
  constexpr void Add(Scope scope) {
    bits_ = static_cast<std::uint8_t>(bits_ | static_cast<std::uint8_t>(scope));
  }
  constexpr bool Has(Scope scope) const { return (bits_ & static_cast<std::uint8_t>(scope)) != 0; }

 private:
  constexpr explicit Scopes(std::uint8_t bits) : bits_(bits) {}
  std::uint8_t bits_ = 0;
};

struct AccessPolicy {
  struct Token {
    std::string secret;
    Scopes scopes;
  };
  std::vector<Token> tokens;
  // What a verified client certificate allows; nullopt: certificates are no identity.
  std::optional<Scopes> certificate_scopes;

  bool open() const { return tokens.empty() && !certificate_scopes; }
};

// Who calls, as the connection says.
struct Caller {
  std::optional<std::string> bearer;  // the token of `authorization: Bearer ...`
  bool certificate_verified = false;
};

// The token in the value of an `authorization` header or metadata entry; nullopt if it is of
// another scheme.
std::optional<std::string> BearerToken(std::string_view authorization);

class Authorizer {
 public:
  explicit Authorizer(const AccessPolicy& policy);

  // `object` is what the caller wants to touch; it stands in the refusal's text. Takes the same
  // time whichever token is nearly right.
  //   kUnauthenticated   no identity, or an unknown token
  //   kPermissionDenied  a known one without the scope
  absl::Status Authorize(const Caller& caller, Scope scope, std::string_view object) const;

  // For a reload. Callers that are inside Authorize() finish by the old policy.
  void SetPolicy(const AccessPolicy& policy);

 private:
  using Digest = std::array<unsigned char, 32>;
  struct Compiled {
    std::vector<std::pair<Digest, Scopes>> tokens;
    std::optional<Scopes> certificate_scopes;
    bool open = false;
  };
  static Digest DigestOf(std::string_view secret);
  std::shared_ptr<const Compiled> Current() const;

  mutable Mutex mutex_;
  std::shared_ptr<const Compiled> compiled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin
