// Any bytes as the messages of a slot: refused, or decoded; and whatever comes of them as events is
// an event. Each message is two bytes of size and so many bytes.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "broker/base/check.h"
#include "broker/base/json_scan.h"
#include "connectors/database/postgres/transaction_stream.h"

namespace {

class Catalog : public tocsin::PgCatalog {
 public:
  absl::StatusOr<std::vector<std::string>> PrimaryKey(std::uint32_t) override {
    return std::vector<std::string>{"id"};
  }
  absl::Status DescribeTypes(std::span<const std::uint32_t>, tocsin::PgTypes&) override {
    return absl::OkStatus();
  }
};

class Watch : public tocsin::PgChangeWatch {
 public:
  bool Wants(const tocsin::PgRelation&) const override { return true; }
  void Changed(const tocsin::PgRelation&, std::string_view, tocsin::Lsn) override {}
  void Truncated(const tocsin::PgRelation&, tocsin::Lsn) override {}
  void Described(const tocsin::PgRelation&) override {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const tocsin::PostgresSpec spec;
  static tocsin::PostgresEvents events = *tocsin::PostgresEvents::Make(spec);
  Catalog catalog;
  Watch watch;
  tocsin::TransactionStream stream({true, "/tmp"}, tocsin::PgPosition(), {events, catalog, watch});
  tocsin::SourceBatch batch;
  std::size_t bytes = 0;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  tocsin::Lsn done = 0;
  while (rest.size() >= 2) {
    const std::size_t length =
        static_cast<unsigned char>(rest[0]) * 256U + static_cast<unsigned char>(rest[1]);
    rest.remove_prefix(2);
    const std::string_view message = rest.substr(0, length);
    rest.remove_prefix(message.size());
    bytes = 0;  // nothing is held back
    bool ok = stream.Feed(message, batch, bytes).ok();
    while (ok && stream.replaying()) {
      bytes = 0;
      ok = stream.Replay(batch, bytes).ok();
    }
    if (!ok) break;
    TOCSIN_CHECK(stream.position().done >= done, "what was done is undone");
    done = stream.position().done;
  }
  for (const tocsin::Event& event : batch.events) {
    const tocsin::EventView view = event.View();
    if (view.Text("datacontenttype") != "application/json") continue;
    tocsin::JsonValue value;
    // Column names may repeat only in what is no server's doing.
    tocsin::JsonScanner scanner(view.data, tocsin::kJsonDepthMax + 8,
                                tocsin::JsonNames::kMayRepeat);
    TOCSIN_CHECK(scanner.ReadDocument(value).ok(), "{}", view.data);
  }
  return 0;
}
