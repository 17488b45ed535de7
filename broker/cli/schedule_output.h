// Schedules, functions and runs as text for people or JSON for programs; see output.h.

#pragma once

#include <string>
#include <vector>

#include "broker/cli/json_writer.h"
#include "broker/cli/output.h"
#include "broker/cli/table.h"
#include "tocsin/v1/admin.pb.h"

namespace tocsin::cli {

std::vector<Column> ScheduleColumns();
std::vector<Cell> ScheduleRow(const v1::ScheduleStatus& status);
void AppendSchedule(JsonWriter& json, const v1::ScheduleStatus& status);
std::string ScheduleText(const v1::ScheduleStatus& status);

std::vector<Column> RunColumns();
std::vector<Cell> RunRow(const v1::RunStatus& run);
void AppendRun(JsonWriter& json, const v1::RunStatus& run, bool with_output);

}  // namespace tocsin::cli
