#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "broker/base/status.h"
#include "broker/config/read_model.h"
#include "broker/config/read_pattern.h"
#include "broker/routing/filter.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kYears = hours(24 * 3650);
constexpr std::string_view kTransformSchema =
    R"({"type":"object","properties":{"attributes":{"type":"object","additionalProperties":)"
    R"({"type":["string","number","boolean"]}},"data":true},"additionalProperties":false})";
constexpr std::string_view kFiltersSchema = R"({"type":"array","items":{"$ref":"#/$defs/filter"}})";

// nullptr after an error.
FilterPtr ReadFilter(ConfigReader& reader, YamlNode node, std::uint32_t depth);

bool ReadFilterList(ConfigReader& reader, YamlNode node, std::string_view what, std::uint32_t depth,
                    std::vector<FilterPtr>& filters) {
  if (node.kind() != YamlKind::kList) {
    reader.Error(node.location(), config_code::kBadValue,
                 fmt::format("`{}` takes a list of filters", what));
    return false;
  }
  bool good = true;
  for (const YamlNode& element : node.Elements()) {
    FilterPtr filter = ReadFilter(reader, element, depth);
    good = good && filter != nullptr;
    filters.push_back(std::move(filter));
  }
  return good;
}

FilterPtr Checked(ConfigReader& reader, YamlLocation location, absl::StatusOr<FilterPtr> filter) {
  if (filter.ok()) return *std::move(filter);
  reader.Error(location, config_code::kBadValue, std::string(MessageOf(filter.status())));
  return nullptr;
}

bool ReadConditions(ConfigReader& reader, YamlNode node, std::string_view dialect,
                    std::vector<Filter::Condition>& conditions) {
  if (node.kind() != YamlKind::kMap) {
    reader.Error(node.location(), config_code::kBadValue,
                 fmt::format("`{}` takes a map from attributes to values", dialect));
    return false;
  }
  bool good = true;
  absl::flat_hash_set<std::string_view> names;
  for (const YamlEntry& entry : node.Entries()) {
    const YamlNode key = entry.key;
    if (key.kind() != YamlKind::kScalar) {
      reader.Error(key.location(), config_code::kBadValue, "a key is a word");
      good = false;
      continue;
    }
    if (!names.insert(key.text()).second) {
      reader.Error(key.location(), config_code::kDuplicateKey,
                   fmt::format("attribute `{}` is given twice", key.text().substr(0, 64)));
      good = false;
      continue;
    }
    if (entry.value.kind() != YamlKind::kScalar) {
      reader.Error(entry.value.location(), config_code::kBadValue,
                   fmt::format("the value for `{}` must be one text", key.text().substr(0, 64)));
      good = false;
      continue;
    }
    std::optional<ConfigText> value = reader.Interpolate(entry.value);
    if (!value) {
      good = false;
      continue;
    }
    const absl::Status status = ValidateCondition(key.text(), value->value);
    if (!status.ok()) {
      reader.Error(key.location(), config_code::kBadValue, std::string(MessageOf(status)));
      good = false;
      continue;
    }
    conditions.push_back({std::string(key.text()), std::move(value->value)});
  }
  return good;
}

FilterPtr ReadCesql(ConfigReader& reader, YamlNode node, std::string_view dialect) {
  if (node.kind() != YamlKind::kScalar) {
    reader.Error(node.location(), config_code::kBadValue,
                 fmt::format("`{}` takes an expression", dialect));
    return nullptr;
  }
  const std::optional<ConfigText> text = reader.Interpolate(node);
  if (!text) return nullptr;
  CesqlFault fault;
  absl::StatusOr<FilterPtr> filter = MakeCesql(text->value, &fault);
  if (filter.ok()) return *std::move(filter);
  YamlLocation location = node.location();
  // On one line, and as it stands in the file: the fault has a place there.
  const bool has_place = !text->interpolated && text->value.find('\n') == std::string::npos;
  if (has_place) location.column += static_cast<std::uint32_t>(fault.offset + !node.plain());
  reader.Error(location, config_code::kBadValue,
               has_place ? fmt::format("{}: {}", dialect, fault.message)
                         : fmt::format("{}: {}", dialect, MessageOf(filter.status())));
  return nullptr;
}

FilterPtr ReadFilter(ConfigReader& reader, YamlNode node, std::uint32_t depth) {
  if (depth > kFilterDepthMax) {
    reader.Error(node.location(), config_code::kBadValue,
                 fmt::format("filters are nested more than {} deep", kFilterDepthMax));
    return nullptr;
  }
  const std::vector<YamlEntry> entries = node.Entries();
  if (entries.size() != 1 || entries.front().key.kind() != YamlKind::kScalar) {
    reader.Error(node.location(), config_code::kBadValue,
                 "a filter is a map with one dialect, such as `suffix: { subject: .csv }`");
    return nullptr;
  }
  const YamlNode key = entries.front().key;
  const YamlNode value = entries.front().value;
  const absl::StatusOr<Filter::Kind> kind = DialectFromName(key.text());
  if (!kind.ok()) {
    reader.Error(key.location(), config_code::kUnknownKey, std::string(MessageOf(kind.status())));
    return nullptr;
  }
  switch (*kind) {
    case Filter::Kind::kCesql:
      return ReadCesql(reader, value, key.text());
    case Filter::Kind::kNot: {
      FilterPtr operand = ReadFilter(reader, value, depth + 1);
      if (operand == nullptr) return nullptr;
      return Checked(reader, key.location(), MakeCombination(*kind, {std::move(operand)}));
    }
    case Filter::Kind::kAll:
    case Filter::Kind::kAny: {
      std::vector<FilterPtr> operands;
      if (!ReadFilterList(reader, value, key.text(), depth + 1, operands)) return nullptr;
      return Checked(reader, key.location(), MakeCombination(*kind, std::move(operands)));
    }
    case Filter::Kind::kExact:
    case Filter::Kind::kPrefix:
    case Filter::Kind::kSuffix:
      break;
  }
  std::vector<Filter::Condition> conditions;
  if (!ReadConditions(reader, value, key.text(), conditions)) return nullptr;
  return Checked(reader, key.location(), MakeConditions(*kind, std::move(conditions)));
}

using Names = absl::flat_hash_set<std::string_view>;

void CheckKnown(Section& section, std::string_view key, std::string_view name, const Names& known,
                std::string_view what) {
  if (known.contains(name)) return;
  const std::vector<std::string_view> candidates(known.begin(), known.end());
  section.Error(key, config_code::kUnknownName,
                fmt::format("there is no {} `{}` in `{}s`{}", what, name.substr(0, 128), what,
                            DidYouMean(name, candidates)));
}

void ReadTrigger(ConfigReader& reader, YamlNode node, const Names& sources, const Names& functions,
                 TriggerConfig& trigger) {
  Section section(reader, node, "triggers.*");
  const bool has_sources =
      section.TextList("sources", trigger.route.sources,
                       "whose events it takes; none is any source and what is published");
  const YamlNode filters = section.Value(
      "filters", "list of filters", kFiltersSchema,
      "which of them, by attributes: exact, prefix, suffix, all, any, not, cesql; all "
      "hold");
  const YamlNode pattern = section.Value("pattern", "pattern", R"({"type":"object"})",
                                         "which of them, by attributes and JSON payload, in the "
                                         "form of EventBridge; filters hold too");
  const YamlNode transform = section.Value(
      "transform", "transform", kTransformSchema,
      "what the function gets instead of the event: `attributes` and `data`, with holes such as "
      "`\"{data.order.id}\"`");
  const bool has_function =
      section.Text("function", trigger.spec.policy.function, "the function it calls");
  section.Require("function");
  ReadPolicy(reader, section, trigger.spec.policy);
  section.Text("was", trigger.spec.was, "its former name: pending deliveries are taken over");
  section.Boolean("paused", trigger.spec.paused, "delivers nothing until resumed");
  section.Choice("from", trigger.spec.from_start, {{"end", false}, {"start", true}},
                 "where a new trigger begins: with the events after it, or with all stored ones");
  section.Finish();
  if (reader.describing != nullptr) return;

  if (has_sources) {
    if (trigger.route.sources.empty()) {
      section.Error("sources", config_code::kBadValue,
                    "`sources` is empty; leave the key out for any source");
    }
    for (const std::string& source : trigger.route.sources) {
      CheckKnown(section, "sources", source, sources, "source");
    }
    std::sort(trigger.route.sources.begin(), trigger.route.sources.end());
    trigger.route.sources.erase(
        std::unique(trigger.route.sources.begin(), trigger.route.sources.end()),
        trigger.route.sources.end());
    trigger.route.sources.shrink_to_fit();
  }
  if (has_function) {
    CheckKnown(section, "function", trigger.spec.policy.function, functions, "function");
  }
  if (filters.present() && filters.kind() != YamlKind::kNull) {
    std::vector<FilterPtr> parsed;
    if (ReadFilterList(reader, filters, "filters", 1, parsed)) {
      trigger.route.filter = Checked(reader, filters.location(), MakeFilters(std::move(parsed)));
    }
  }
  if (pattern.present() && pattern.kind() != YamlKind::kNull) {
    trigger.route.pattern = ReadPattern(reader, pattern);
  }
  if (transform.present() && transform.kind() != YamlKind::kNull) {
    trigger.route.transform = ReadTransform(reader, transform);
  }
}

}  // namespace

void ReadPolicy(ConfigReader& reader, Section& section, TriggerPolicy& policy) {
  const bool timeout = section.TimeSpan("timeout", policy.timeout, milliseconds(10), hours(24 * 30),
                                        "lease of one attempt; only Extend renews it");
  const bool timeout_max =
      section.TimeSpan("timeout_max", policy.timeout_max, milliseconds(10), hours(24 * 365),
                       "the longest an attempt lasts with every Extend");
  section.Integer("concurrency", policy.concurrency, 1, 1'000'000,
                  "deliveries in flight; `unlimited` leaves it to the workers' credit",
                  "unlimited");
  section.PerTime(
      "rate", policy.rate.count, policy.rate.per,
      "attempts that begin, evenly, over all partitions: `20/s`, or per `m`, `h` or `d`; "
      "what is not used is kept for a tenth of a second");
  Section batch(reader, section.Map("batch", "deliveries that go to one worker together"),
                section.PathOf("batch"));
  batch.Integer("max_events", policy.batch.events_max, 1, 1000,
                "so many of a partition; 1: each goes by itself");
  batch.TimeSpan("max_wait", policy.batch.wait_max, milliseconds(1), hours(1),
                 "how long the first one waits for the others");
  batch.Finish();
  section.Choice("order", policy.order,
                 {{"key", Order::kKey}, {"partition", Order::kPartition}, {"none", Order::kNone}},
                 "one at a time and in order: per key, per partition, not at all");
  Section retry(reader, section.Map("retry", "how failed attempts are repeated"),
                section.PathOf("retry"));
  RetryPolicy& repeat = policy.retry;
  retry.Integer("attempts", repeat.attempts_max, 1, 1'000'000, "attempts in all", "unlimited");
  const bool backoff = retry.TimeSpan("backoff", repeat.backoff, Duration::zero(), hours(24),
                                      "wait after the first failure");
  retry.Number("factor", repeat.factor, 1, 100, "each further wait is so many times longer");
  const bool max_backoff = retry.TimeSpan("max_backoff", repeat.backoff_max, Duration::zero(),
                                          hours(24 * 7), "the longest wait");
  retry.Choice("jitter", repeat.jitter, {{"full", Jitter::kFull}, {"none", Jitter::kNone}},
               "`full`: a random part of the wait, so that repeats spread");
  retry.OptionalTimeSpan("max_age", repeat.age_max, milliseconds(1), kYears,
                         "a delivery whose first attempt is older expires");
  retry.Finish();
  section.Choice("on_exhausted", policy.on_exhausted,
                 {{"skip", OnExhausted::kSkip}, {"park", OnExhausted::kPark}},
                 "after the last attempt: a dead letter, or also hold back the key's later events");
  Section backlog(reader, section.Map("backlog", "bounds of what waits"),
                  section.PathOf("backlog"));
  backlog.OptionalTimeSpan("max_age", policy.backlog.age_max, milliseconds(1), kYears,
                           "deliveries that waited longer expire");
  backlog.OptionalInteger("max_size", policy.backlog.size_max, 1, std::uint64_t{1} << 40,
                          "pending deliveries per partition");
  backlog.Choice("when_full", policy.backlog.when_full,
                 {{"refuse", WhenFull::kRefuse}, {"drop", WhenFull::kDrop}},
                 "at `max_size`: refuse publishes, or drop what comes");
  backlog.Finish();

  if (policy.batch.events_max > 1 && policy.order == Order::kPartition) {
    batch.Error("max_events", config_code::kConflict,
                "`order: partition` has one delivery under way: there are no batches");
  } else if (policy.concurrency != 0 && policy.batch.events_max > policy.concurrency) {
    batch.Error("max_events", config_code::kConflict, "`max_events` is above `concurrency`");
  }
  if (policy.timeout > policy.timeout_max) {
    // A longer timeout alone means a longer bound too; both given is a contradiction.
    if (timeout && !timeout_max) {
      policy.timeout_max = policy.timeout;
    } else {
      section.Error("timeout_max", config_code::kConflict, "`timeout_max` is below `timeout`");
    }
  }
  if (repeat.backoff > repeat.backoff_max) {
    if (backoff && !max_backoff) {
      repeat.backoff_max = repeat.backoff;
    } else {
      retry.Error("max_backoff", config_code::kConflict, "`max_backoff` is below `backoff`");
    }
  }
}

void ReadTriggers(ConfigReader& reader, YamlNode node, Config& config) {
  if (reader.describing != nullptr) {
    TriggerConfig trigger;
    ReadTrigger(reader, {}, {}, {}, trigger);
    return;
  }
  Names sources;
  for (const SourceConfig& source : config.sources) sources.insert(source.name);
  Names functions;
  for (const FunctionConfig& function : config.functions) functions.insert(function.name);
  const std::vector<YamlEntry> entries = NamedEntries(reader, node, "trigger");
  config.triggers.reserve(entries.size());
  for (const YamlEntry& entry : entries) {
    TriggerConfig& trigger = config.triggers.emplace_back();
    trigger.spec.policy = config.broker.defaults;
    trigger.spec.name = std::string(entry.key.text());
    trigger.route.name = trigger.spec.name;
    trigger.location = ToConfigLocation(entry.key.location());
    ReadTrigger(reader, entry.value, sources, functions, trigger);
  }
}

}  // namespace tocsin
