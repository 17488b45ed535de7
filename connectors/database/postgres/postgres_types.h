// PostgresTypes: what the values of PostgreSQL's types are in JSON, exactly.
//
//   bool                        true, false
//   int2, int4, int8, oid       a number, all digits
//   float4, float8              a number that reads back as the same; "NaN", "Infinity",
//                               "-Infinity" as text
//   json, jsonb                 the value itself; as text if a strict reader would refuse it
//   bytea                       base64
//   timestamp, timestamptz      2016-11-04T13:51:30.123456, with Z if it has a zone; `... BC`,
//                               "infinity", "-infinity"
//   hstore                      an object of texts and nulls
//   arrays                      arrays, nested; NULL is null; one whose bounds do not begin at 1
//                               as text, since an array has no place for them
//   domains                     as what they are made of
//   everything else             text as PostgreSQL writes it: numeric, money, date, time, timetz,
//                               interval, enums, ranges, composites, uuid, inet, bits, xml,
//                               geometry, full-text search, ...
//   text that is no UTF-8       {"base64": "..."}
//
// The session's settings decide some texts: DateStyle ISO, TimeZone UTC, IntervalStyle postgres,
// bytea_output hex; the caller sets them.
//
// Threading: PgTypes by one thread; the functions are pure.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace tocsin {

enum class PgShape : std::uint8_t {
  kText,
  kBoolean,
  kInteger,
  kFloat,
  kBytes,
  kJson,
  kTimestamp,
  kTimestampZone,
  kHstore,
};

struct PgType {
  PgShape shape = PgShape::kText;  // of an array: of its elements
  bool array = false;
  char delimiter = ',';  // between an array's elements; `;` of box

  friend bool operator==(const PgType&, const PgType&) = default;
};

// A server's own types have fixed oids; others are learnt.
inline constexpr std::uint32_t kPgFirstUserOid = 16384;

class PgTypes {
 public:
  // What is not known is text.
  PgType Find(std::uint32_t oid) const;
  bool Knows(std::uint32_t oid) const;

  // From a Type message: pgoutput names a domain by what it is made of.
  void Learn(std::uint32_t oid, std::string_view space, std::string_view name);
  // From the catalog, which knows more than the message.
  void Put(std::uint32_t oid, PgType type) { learnt_[oid] = type; }

 private:
  std::map<std::uint32_t, PgType> learnt_;
};

// Appends the JSON of a value's text form.
void AppendPgValue(std::string& out, const PgType& type, std::string_view text);

}  // namespace tocsin
