#include "connectors/database/postgres/postgres_types.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "broker/base/base64.h"
#include "broker/base/json_scan.h"

namespace tocsin {
namespace {

struct BuiltIn {
  std::uint32_t oid;
  std::uint32_t array_oid;
  std::string_view name;
  PgShape shape;
  char delimiter = ',';
};

// pg_type of PostgreSQL 15: what is not text, and every type that has an array.
constexpr BuiltIn kBuiltIn[] = {
    {16, 1000, "bool", PgShape::kBoolean},
    {17, 1001, "bytea", PgShape::kBytes},
    {18, 1002, "char", PgShape::kText},
    {19, 1003, "name", PgShape::kText},
    {20, 1016, "int8", PgShape::kInteger},
    {21, 1005, "int2", PgShape::kInteger},
    {22, 1006, "int2vector", PgShape::kText},
    {23, 1007, "int4", PgShape::kInteger},
    {24, 1008, "regproc", PgShape::kText},
    {25, 1009, "text", PgShape::kText},
    {26, 1028, "oid", PgShape::kInteger},
    {27, 1010, "tid", PgShape::kText},
    {28, 1011, "xid", PgShape::kText},
    {29, 1012, "cid", PgShape::kText},
    {30, 1013, "oidvector", PgShape::kText},
    {114, 199, "json", PgShape::kJson},
    {142, 143, "xml", PgShape::kText},
    {600, 1017, "point", PgShape::kText},
    {601, 1018, "lseg", PgShape::kText},
    {602, 1019, "path", PgShape::kText},
    {603, 1020, "box", PgShape::kText, ';'},
    {604, 1027, "polygon", PgShape::kText},
    {628, 629, "line", PgShape::kText},
    {650, 651, "cidr", PgShape::kText},
    {700, 1021, "float4", PgShape::kFloat},
    {701, 1022, "float8", PgShape::kFloat},
    {718, 719, "circle", PgShape::kText},
    {774, 775, "macaddr8", PgShape::kText},
    {790, 791, "money", PgShape::kText},
    {829, 1040, "macaddr", PgShape::kText},
    {869, 1041, "inet", PgShape::kText},
    {1033, 1034, "aclitem", PgShape::kText},
    {1042, 1014, "bpchar", PgShape::kText},
    {1043, 1015, "varchar", PgShape::kText},
    {1082, 1182, "date", PgShape::kText},
    {1083, 1183, "time", PgShape::kText},
    {1114, 1115, "timestamp", PgShape::kTimestamp},
    {1184, 1185, "timestamptz", PgShape::kTimestampZone},
    {1186, 1187, "interval", PgShape::kText},
    {1266, 1270, "timetz", PgShape::kText},
    {1560, 1561, "bit", PgShape::kText},
    {1562, 1563, "varbit", PgShape::kText},
    {1700, 1231, "numeric", PgShape::kText},
    {1790, 2201, "refcursor", PgShape::kText},
    {2202, 2207, "regprocedure", PgShape::kText},
    {2203, 2208, "regoper", PgShape::kText},
    {2204, 2209, "regoperator", PgShape::kText},
    {2205, 2210, "regclass", PgShape::kText},
    {2206, 2211, "regtype", PgShape::kText},
    {2950, 2951, "uuid", PgShape::kText},
    {2970, 2949, "txid_snapshot", PgShape::kText},
    {3220, 3221, "pg_lsn", PgShape::kText},
    {3614, 3643, "tsvector", PgShape::kText},
    {3615, 3645, "tsquery", PgShape::kText},
    {3642, 3644, "gtsvector", PgShape::kText},
    {3734, 3735, "regconfig", PgShape::kText},
    {3769, 3770, "regdictionary", PgShape::kText},
    {3802, 3807, "jsonb", PgShape::kJson},
    {3904, 3905, "int4range", PgShape::kText},
    {3906, 3907, "numrange", PgShape::kText},
    {3908, 3909, "tsrange", PgShape::kText},
    {3910, 3911, "tstzrange", PgShape::kText},
    {3912, 3913, "daterange", PgShape::kText},
    {3926, 3927, "int8range", PgShape::kText},
    {4072, 4073, "jsonpath", PgShape::kText},
    {4089, 4090, "regnamespace", PgShape::kText},
    {4096, 4097, "regrole", PgShape::kText},
    {4191, 4192, "regcollation", PgShape::kText},
    {4451, 6150, "int4multirange", PgShape::kText},
    {4532, 6151, "nummultirange", PgShape::kText},
    {4533, 6152, "tsmultirange", PgShape::kText},
    {4534, 6153, "tstzmultirange", PgShape::kText},
    {4535, 6155, "datemultirange", PgShape::kText},
    {4536, 6157, "int8multirange", PgShape::kText},
    {5038, 5039, "pg_snapshot", PgShape::kText},
    {5069, 271, "xid8", PgShape::kText},
};

std::optional<PgType> BuiltInType(std::uint32_t oid) {
  for (const BuiltIn& type : kBuiltIn) {
    if (type.oid == oid) return PgType{type.shape, false, type.delimiter};
    if (type.array_oid == oid) return PgType{type.shape, true, type.delimiter};
  }
  return std::nullopt;
}

void AppendText(std::string& out, std::string_view text) {
  if (simdjson::validate_utf8(text.data(), text.size())) {
    AppendJsonString(out, text);
    return;
  }
  out += "{\"base64\":";
  AppendJsonString(out, EncodeBase64(text));
  out += '}';
}

bool IsInteger(std::string_view text) {
  if (!text.empty() && text[0] == '-') text.remove_prefix(1);
  const bool digits = !text.empty() && std::all_of(text.begin(), text.end(),
                                                   [](char c) { return c >= '0' && c <= '9'; });
  return digits && (text.size() == 1 || text[0] != '0');
}

// A float of PostgreSQL is a number of JSON but for the three that are none.
bool IsJsonNumber(std::string_view text) {
  JsonValue value;
  return JsonScanner(text).ReadDocument(value).ok() && value.kind == JsonKind::kNumber;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool AppendBytes(std::string& out, std::string_view text) {
  if (!text.starts_with("\\x") || text.size() % 2 != 0) return false;
  text.remove_prefix(2);
  std::string bytes;
  bytes.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = HexDigit(text[i]);
    const int low = HexDigit(text[i + 1]);
    if (high < 0 || low < 0) return false;
    bytes.push_back(static_cast<char>(high * 16 + low));
  }
  AppendJsonString(out, EncodeBase64(bytes));
  return true;
}

bool AppendTimestamp(std::string& out, std::string_view text, bool zone) {
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || text[0] < '0' || text[0] > '9') return false;
  std::string made(text);
  made[space] = 'T';
  if (zone) {
    const std::size_t utc = made.find("+00", space);
    if (utc == std::string::npos) return false;
    const std::string_view rest = std::string_view(made).substr(utc + 3);
    if (!rest.empty() && rest != " BC") return false;
    made.replace(utc, 3, "Z");
  }
  AppendJsonString(out, made);
  return true;
}

bool AppendJson(std::string& out, std::string_view text) {
  JsonValue value;
  if (!JsonScanner(text).ReadDocument(value).ok()) return false;
  AppendJsonCompact(out, value.raw);
  return true;
}

// "key"=>"value", "key"=>NULL
bool AppendHstore(std::string& out, std::string_view text) {
  const auto quoted = [&text](std::string& word) {
    if (text.empty() || text[0] != '"') return false;
    for (std::size_t i = 1; i < text.size(); ++i) {
      if (text[i] == '"') {
        text.remove_prefix(i + 1);
        return true;
      }
      if (text[i] == '\\' && ++i == text.size()) return false;
      word.push_back(text[i]);
    }
    return false;
  };
  const auto skip = [&text](std::string_view word) {
    if (!text.starts_with(word)) return false;
    text.remove_prefix(word.size());
    return true;
  };
  std::string made = "{";
  while (!text.empty()) {
    if (made.size() > 1) {
      if (!skip(", ")) return false;
      made += ',';
    }
    std::string key;
    if (!quoted(key) || !skip("=>")) return false;
    AppendJsonString(made, key);
    made += ':';
    if (skip("NULL")) {
      made += "null";
      continue;
    }
    std::string value;
    if (!quoted(value)) return false;
    AppendText(made, value);
  }
  out += made + "}";
  return true;
}

void AppendScalar(std::string& out, PgShape shape, std::string_view text) {
  bool made = false;
  switch (shape) {
    case PgShape::kText:
      break;
    case PgShape::kBoolean:
      made = text == "t" || text == "f";
      if (made) out += text == "t" ? "true" : "false";
      break;
    case PgShape::kInteger:
      made = IsInteger(text);
      if (made) out += text;
      break;
    case PgShape::kFloat:
      made = IsJsonNumber(text);
      if (made) out += text;
      break;
    case PgShape::kBytes:
      made = AppendBytes(out, text);
      break;
    case PgShape::kJson:
      made = AppendJson(out, text);
      break;
    case PgShape::kTimestamp:
    case PgShape::kTimestampZone:
      made = AppendTimestamp(out, text, shape == PgShape::kTimestampZone);
      break;
    case PgShape::kHstore:
      made = AppendHstore(out, text);
      break;
  }
  if (!made) AppendText(out, text);
}

// `{1,NULL,"a\"b"}`, nested. PostgreSQL has at most six dimensions.
class ArrayText {
 public:
  ArrayText(std::string_view text, const PgType& type) : text_(text), type_(type) {}

  bool Append(std::string& out) { return Level(out, 0) && at_ == text_.size(); }

 private:
  static constexpr int kDepthMax = 6;

  bool Take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool Level(std::string& out, int depth) {
    if (depth >= kDepthMax || !Take('{')) return false;
    out += '[';
    bool first = true;
    while (!Take('}')) {
      if (!first) {
        if (!Take(type_.delimiter)) return false;
        out += ',';
      }
      first = false;
      if (at_ < text_.size() && text_[at_] == '{') {
        if (!Level(out, depth + 1)) return false;
      } else if (!Element(out)) {
        return false;
      }
    }
    out += ']';
    return true;
  }
  bool Element(std::string& out) {
    std::string word;
    const bool quoted = Take('"');
    while (true) {
      if (at_ >= text_.size()) return false;
      const char c = text_[at_];
      if (quoted ? c == '"' : (c == type_.delimiter || c == '}')) break;
      ++at_;
      if (c == '\\') {
        if (at_ >= text_.size()) return false;
        word.push_back(text_[at_++]);
      } else if (!quoted && (c == '{' || c == '"')) {
        return false;
      } else {
        word.push_back(c);
      }
    }
    if (quoted) ++at_;
    if (!quoted && word.empty()) return false;
    if (!quoted && word == "NULL") {
      out += "null";
    } else {
      AppendScalar(out, type_.shape, word);
    }
    return true;
  }

  std::string_view text_;
  const PgType& type_;
  std::size_t at_ = 0;
};

}  // namespace

PgType PgTypes::Find(std::uint32_t oid) const {
  if (oid < kPgFirstUserOid) return BuiltInType(oid).value_or(PgType());
  const auto found = learnt_.find(oid);
  return found == learnt_.end() ? PgType() : found->second;
}

bool PgTypes::Knows(std::uint32_t oid) const {
  return oid < kPgFirstUserOid || learnt_.contains(oid);
}

void PgTypes::Learn(std::uint32_t oid, std::string_view space, std::string_view name) {
  // Extensions may be in any schema: their types are known by their names. No schema stands for
  // pg_catalog.
  PgType type;
  const bool array = name.starts_with('_');
  if (array) name.remove_prefix(1);
  type.array = array;
  if (name == "hstore") {
    type.shape = PgShape::kHstore;
  } else if (space.empty() || space == "pg_catalog") {
    for (const BuiltIn& known : kBuiltIn) {
      if (known.name != name) continue;
      type.shape = known.shape;
      type.delimiter = known.delimiter;
    }
  }
  learnt_[oid] = type;
}

void AppendPgValue(std::string& out, const PgType& type, std::string_view text) {
  if (!type.array) return AppendScalar(out, type.shape, text);
  const std::size_t before = out.size();
  if (ArrayText(text, type).Append(out)) return;
  out.resize(before);
  AppendText(out, text);
}

}  // namespace tocsin
