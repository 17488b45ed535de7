#include "broker/server/auth.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <utility>

#include "absl/strings/match.h"

namespace tocsin {

std::string_view ScopeName(Scope scope) {
  switch (scope) {
    case Scope::kPublish:
      return "publish";
    case Scope::kWork:
      return "work";
    case Scope::kAdmin:
      return "admin";
  }
  return "";
}

std::optional<Scope> ParseScope(std::string_view name) {
  for (const Scope scope : {Scope::kPublish, Scope::kWork, Scope::kAdmin}) {
    if (ScopeName(scope) == name) return scope;
  }
  return std::nullopt;
}

std::optional<std::string> BearerToken(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() <= kScheme.size() ||
      !absl::EqualsIgnoreCase({authorization.data(), kScheme.size()},
                              {kScheme.data(), kScheme.size()})) {
    return std::nullopt;
  }
  authorization.remove_prefix(kScheme.size());
  while (!authorization.empty() && authorization.front() == ' ') authorization.remove_prefix(1);
  if (authorization.empty()) return std::nullopt;
  return std::string(authorization);
}

Authorizer::Authorizer(const AccessPolicy& policy) { SetPolicy(policy); }

Authorizer::Digest Authorizer::DigestOf(std::string_view secret) {
  Digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), digest.data());
  return digest;
}

void Authorizer::SetPolicy(const AccessPolicy& policy) {
  auto compiled = std::make_shared<Compiled>();
  compiled->open = policy.open();
  compiled->certificate_scopes = policy.certificate_scopes;
  for (const AccessPolicy::Token& token : policy.tokens) {
    compiled->tokens.emplace_back(DigestOf(token.secret), token.scopes);
  }
  MutexLock lock(mutex_);
  compiled_ = std::move(compiled);
}

std::shared_ptr<const Authorizer::Compiled> Authorizer::Current() const {
  MutexLock lock(mutex_);
  return compiled_;
}

absl::Status Authorizer::Authorize(const Caller& caller, Scope scope,
                                   std::string_view object) const {
  const std::shared_ptr<const Compiled> policy = Current();
  if (policy->open) return absl::OkStatus();
  bool known = false;
  bool allowed = false;
  if (caller.certificate_verified && policy->certificate_scopes) {
    known = true;
    allowed = policy->certificate_scopes->Has(scope);
  }
  if (caller.bearer) {
    const Digest digest = DigestOf(*caller.bearer);
    // No early end: which token matched must not show in the time taken.
    for (const auto& [expected, scopes] : policy->tokens) {
      const bool same = CRYPTO_memcmp(expected.data(), digest.data(), digest.size()) == 0;
      known |= same;
      allowed |= same && scopes.Has(scope);
    }
  }
  if (allowed) return absl::OkStatus();
  if (known) {
    return absl::PermissionDeniedError(
        fmt::format("T0204: {} needs the scope `{}`, which this identity does not have", object,
                    ScopeName(scope)));
  }
  return absl::UnauthenticatedError(
      fmt::format("T0203: {} needs a token (metadata `authorization: Bearer ...`) or a client "
                  "certificate with the scope `{}`",
                  object, ScopeName(scope)));
}

}  // namespace tocsin
