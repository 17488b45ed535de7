// Holds schema and reference against the keys the reader knows. To write them anew after a change,
// run with TOCSIN_UPDATE=1 and look at the difference.

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "broker/config/load.h"
#include "tests/support/vectors.h"

namespace tocsin {
namespace {

using nlohmann::json;

std::string SourcePath(const std::string& path) {
  const char* folder = std::getenv("TOCSIN_SOURCE_DIR");
  TOCSIN_CHECK(folder != nullptr, "run this test by ctest, or set TOCSIN_SOURCE_DIR");
  return std::string(folder) + "/" + path;
}

bool Updating() { return std::getenv("TOCSIN_UPDATE") != nullptr; }

void Write(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  TOCSIN_CHECK(file != nullptr, "cannot write {}", path);
  std::fwrite(text.data(), 1, text.size(), file);
  std::fclose(file);
}

void CollectKeys(const json& schema, const std::string& path, std::set<std::string>& keys,
                 json& defaults) {
  if (schema.contains("properties")) {
    for (const auto& [name, value] : schema["properties"].items()) {
      const std::string inner = path.empty() ? name : path + "." + name;
      keys.insert(inner);
      if (value.contains("default")) defaults[inner] = value["default"];
      CollectKeys(value, inner, keys, defaults);
    }
  }
  if (schema.contains("additionalProperties") && schema["additionalProperties"].is_object()) {
    CollectKeys(schema["additionalProperties"], path + ".*", keys, defaults);
  }
  if (schema.contains("items")) CollectKeys(schema["items"], path + "[]", keys, defaults);
}

TEST(ConfigReferenceTest, TheSchemaIsThatOfTheCode) {
  const std::string path = SourcePath("docs/tocsin.schema.json");
  if (Updating()) Write(path, ConfigSchema());
  EXPECT_EQ(ReadTestFile(path), ConfigSchema());
}

TEST(ConfigReferenceTest, TheSchemaHasEveryKeyAndDefaultAndNoOther) {
  const json schema = json::parse(ReadTestFile(SourcePath("docs/tocsin.schema.json")));
  std::set<std::string> in_schema;
  json defaults = json::object();
  CollectKeys(schema, "", in_schema, defaults);
  std::set<std::string> in_code;
  for (const ConfigKey& key : DescribeConfig()) {
    EXPECT_TRUE(in_code.insert(key.path).second) << key.path << " is read twice";
    EXPECT_FALSE(key.description.empty()) << key.path;
    if (defaults.contains(key.path)) {
      const json& value = defaults[key.path];
      EXPECT_EQ(value.is_string() ? value.get<std::string>() : value.dump(), key.default_value)
          << key.path;
    }
  }
  EXPECT_EQ(in_schema, in_code);
}

TEST(ConfigReferenceTest, DefaultsAreThoseOfTheContract) {
  std::map<std::string, std::string> defaults;
  for (const ConfigKey& key : DescribeConfig()) defaults[key.path] = key.default_value;
  const std::map<std::string, std::string> expected = {
      {"broker.listen", "127.0.0.1:7420"},
      {"broker.http", "127.0.0.1:7421"},
      {"broker.data_dir", "./tocsin-data"},
      {"broker.partitions", "4"},
      {"broker.durability", "durable"},
      {"broker.retention.age", "7d"},
      {"broker.retention.size", "10GiB"},
      {"broker.dedupe.window", "10m"},
      {"broker.dedupe.max_ids", "1000000"},
      {"broker.event_bytes_max", "1MiB"},
      {"broker.ingest_bytes_max", "16MiB"},
      {"broker.dead_letters.age", "30d"},
      {"broker.dead_letters.size", "2GiB"},
      {"broker.detached_retention", "7d"},
      {"broker.heartbeat", "4s"},
      {"broker.gone", "30s"},
      {"broker.queues.entries_max", "8192"},
      {"broker.queues.key_entries_max", "64"},
      {"broker.queues.skipped_keys_max", "4096"},
      {"broker.queues.spread_max", "16777216"},
      {"triggers.*.timeout", "30s"},
      {"triggers.*.timeout_max", "12h"},
      {"triggers.*.concurrency", "unlimited"},
      {"triggers.*.rate", "unlimited"},
      {"triggers.*.batch.max_events", "1"},
      {"triggers.*.batch.max_wait", "200ms"},
      {"triggers.*.order", "key"},
      {"triggers.*.retry.attempts", "8"},
      {"triggers.*.retry.backoff", "1s"},
      {"triggers.*.retry.factor", "2"},
      {"triggers.*.retry.max_backoff", "5m"},
      {"triggers.*.retry.jitter", "full"},
      {"triggers.*.retry.max_age", "unset"},
      {"triggers.*.on_exhausted", "skip"},
      {"triggers.*.function", "required"},
      {"sources.*.file.settle", "1s"},
      {"sources.*.file.rescan", "1m"},
      {"sources.*.timer.timezone", "UTC"},
      {"sources.*.timer.missed.policy", "last"},
      {"sources.*.timer.missed.window", "1d"},
      {"sources.*.timer.missed.max", "100"},
      {"sources.*.timer.dst.gap", "next"},
      {"sources.*.timer.dst.overlap", "first"},
  };
  for (const auto& [path, value] : expected) EXPECT_EQ(defaults[path], value) << path;
}

TEST(ConfigReferenceTest, TheReferenceHasTheTableOfTheCode) {
  const std::string path = SourcePath("docs/reference/tocsin.yaml.md");
  std::string text = ReadTestFile(path);
  const std::string head = "| key | default |";
  const std::size_t start = text.find(head);
  ASSERT_NE(start, std::string::npos);
  std::size_t end = text.find("\n\n", start);
  end = end == std::string::npos ? text.size() : end + 1;
  if (Updating()) {
    text.replace(start, end - start, ConfigReferenceTable());
    Write(path, text);
    end = start + ConfigReferenceTable().size();
  }
  EXPECT_EQ(text.substr(start, end - start), ConfigReferenceTable());
}

// The example in the reference is a file that loads, and so is the quickstart's.
TEST(ConfigReferenceTest, ExamplesLoad) {
  class Environment final : public ConfigEnvironment {
   public:
    std::optional<std::string> Variable(const std::string&) const override { return "7421"; }
    absl::StatusOr<std::string> ReadFile(const std::string&, std::size_t) const override {
      return std::string("secret");
    }
  };
  const std::string reference = ReadTestFile(SourcePath("docs/reference/tocsin.yaml.md"));
  const std::string fence = "```yaml\n";
  std::size_t count = 0;
  for (std::size_t at = reference.find(fence); at != std::string::npos;
       at = reference.find(fence, at + 1)) {
    const std::size_t begin = at + fence.size();
    const std::string text = reference.substr(begin, reference.find("```", begin) - begin);
    const absl::StatusOr<Config> config = ParseConfig(text, "example", Environment());
    EXPECT_TRUE(config.ok()) << config.status();
    ++count;
  }
  EXPECT_GE(count, 1u);
  const std::string quickstart = ReadTestFile(SourcePath("examples/quickstart/tocsin.yaml"));
  const absl::StatusOr<Config> config = ParseConfig(quickstart, "quickstart", Environment());
  EXPECT_TRUE(config.ok()) << config.status();
}

}  // namespace
}  // namespace tocsin
