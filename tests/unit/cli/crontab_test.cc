#include "broker/cli/crontab.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "broker/base/time_text.h"
#include "broker/config/load.h"

namespace tocsin::cli {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class NoEnvironment final : public ConfigEnvironment {
 public:
  std::optional<std::string> Variable(const std::string&) const override { return std::nullopt; }
  absl::StatusOr<std::string> ReadFile(const std::string&, std::size_t) const override {
    return absl::NotFoundError("no files");
  }
};

CrontabOptions Options() {
  CrontabOptions options;
  options.now = *ParseRfc3339("2026-01-01T00:00:00Z");
  return options;
}

ImportedCrontab Import(const std::string& text, const CrontabOptions& options = Options(),
                       const std::string& path = "crontab") {
  return ImportCrontab({{path, text}}, options);
}

// The result as the broker reads it.
Config Load(const ImportedCrontab& imported) {
  std::vector<ConfigError> errors;
  const auto config = ParseConfig(imported.yaml, "t.yaml", NoEnvironment(), &errors);
  for (const ConfigError& error : errors) ADD_FAILURE() << error.ToString();
  return config.ok() ? *config : Config();
}

const ExecSpec& Exec(const Config& config, std::size_t index = 0) {
  return config.functions.at(index).exec.value();
}

std::vector<std::string> Notes(const ImportedCrontab& imported, bool errors = false) {
  std::vector<std::string> notes;
  for (const CrontabNote& note : imported.notes) {
    if (note.line != 0 && note.error == errors) notes.push_back(note.text);
  }
  return notes;
}

TEST(CrontabTest, AnEntryBecomesATimerAFunctionAndATrigger) {
  const ImportedCrontab imported =
      Import("# nightly\n\n30 2 * * 1-5  /usr/local/bin/backup.sh -v\n");
  const Config config = Load(imported);
  ASSERT_EQ(config.sources.size(), 1u);
  const ScheduleSpec& schedule = std::get<TimerSpec>(config.sources[0].spec).schedule;
  EXPECT_EQ(schedule.name, "backup.sh");
  EXPECT_EQ(schedule.cron, "30 2 * * 1-5");
  EXPECT_EQ(schedule.timezone, "UTC");
  EXPECT_THAT(Exec(config).process.command,
              ElementsAre("/bin/sh", "-c", "/usr/local/bin/backup.sh -v"));
  EXPECT_EQ(Exec(config).process.environment.at("PATH"), "/usr/bin:/bin");
  EXPECT_EQ(Exec(config).input, ExecInput::kNone);
  ASSERT_EQ(config.triggers.size(), 1u);
  EXPECT_THAT(config.triggers[0].route.sources, ElementsAre("backup.sh"));
  EXPECT_EQ(config.triggers[0].spec.policy.function, "backup.sh");
  EXPECT_EQ(config.triggers[0].spec.policy.retry.attempts_max, 1u) << "cron repeats nothing";
  EXPECT_EQ(config.triggers[0].spec.policy.timeout, std::chrono::hours(24));
  EXPECT_THAT(Notes(imported), IsEmpty());
}

TEST(CrontabTest, SystemFormHasAUserAndIsKnownByItsPath) {
  const std::string text = "17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly\n";
  for (const std::string path : {"/etc/crontab", "/etc/cron.d/e2scrub"}) {
    const Config config = Load(Import(text, Options(), path));
    EXPECT_EQ(Exec(config).process.user, "root");
    EXPECT_EQ(Exec(config).process.command[2], "cd / && run-parts --report /etc/cron.hourly");
    EXPECT_EQ(config.functions[0].name, "cron.hourly");
  }
  CrontabOptions system = Options();
  system.form = CrontabForm::kSystem;
  EXPECT_EQ(Exec(Load(Import(text, system))).process.user, "root");
  EXPECT_EQ(Exec(Load(Import("* * * * * root x", Options()))).process.command[2], "root x");
}

TEST(CrontabTest, VariablesHoldForTheLinesAfterThem) {
  const Config config =
      Load(Import("* * * * * first\n"
                  "SHELL=/bin/bash\n"
                  " PATH = \"/opt/bin:/bin\" \n"
                  "'GREETING' = ' hello '\n"
                  "HOME=/srv\n"
                  "EMPTY=\n"
                  "* * * * * second\n"));
  EXPECT_EQ(Exec(config, 0).process.command[0], "/bin/sh");
  EXPECT_FALSE(Exec(config, 0).process.environment.contains("GREETING"));
  const LocalCommand& second = Exec(config, 1).process;
  EXPECT_EQ(second.command[0], "/bin/bash");
  EXPECT_EQ(second.environment.at("PATH"), "/opt/bin:/bin");
  EXPECT_EQ(second.environment.at("GREETING"), " hello ");
  EXPECT_EQ(second.environment.at("EMPTY"), "");
  EXPECT_EQ(second.directory, "/srv");
}

TEST(CrontabTest, PercentIsInputAndAnEscapedOneIsItself) {
  const Config config = Load(Import("0 8 * * * mail -s \"it is \\%\" me%Dear me,%%all is well\n"));
  EXPECT_EQ(Exec(config).process.command[2], "mail -s \"it is %\" me");
  EXPECT_EQ(Exec(config).input, ExecInput::kText);
  EXPECT_EQ(Exec(config).stdin_text, "Dear me,\n\nall is well\n");
}

TEST(CrontabTest, WhatTheConfigurationWouldExpandIsKeptAsItIs) {
  const Config config = Load(Import("A=${HOME}/x\n* * * * * echo \"${A}\" $$ \\\\ 'q' : # {x}\n"));
  EXPECT_EQ(Exec(config).process.command[2], "echo \"${A}\" $$ \\\\ 'q' : # {x}");
  EXPECT_EQ(Exec(config).process.environment.at("A"), "${HOME}/x");
}

TEST(CrontabTest, NamesAreUsableAndUnique) {
  const ImportedCrontab imported = Import(
      "* * * * * /opt/a b\n* * * * * /opt/a c\n* * * * * cd /x && ./run.sh\n"
      "* * * * * FOO=1 nice -n 5 /opt/häuf\n* * * * * [ -x /x/y ] && /x/y\n"
      "@reboot 2>/dev/null\n");
  std::vector<std::string> names;
  for (const ImportedEntry& entry : imported.entries) names.push_back(entry.name);
  EXPECT_THAT(names, ElementsAre("a", "a-2", "run.sh", "huf", "y", "job"));
  Load(imported);
}

TEST(CrontabTest, MacrosAndRebootAreTaken) {
  const ImportedCrontab imported = Import("@reboot a\n@daily b\n@annually c\n");
  const Config config = Load(imported);
  EXPECT_EQ(std::get<TimerSpec>(config.sources[0].spec).schedule.cron, "@reboot");
  EXPECT_EQ(std::get<TimerSpec>(config.sources[1].spec).schedule.cron, "@daily");
}

TEST(CrontabTest, OddFieldsAreTranslatedAndSaid) {
  const ImportedCrontab imported = Import(
      "*/90 * * * * a\n~ 1~5 * * * b\n- 5 4 * * * c\n-5 4 * * * d\nRANDOM_DELAY=30\n@daily e\n");
  Load(imported);
  EXPECT_EQ(imported.entries.at(0).cron, "0 * * * *");
  EXPECT_EQ(imported.entries.at(1).cron, "H(0-59) H(1-5) * * *");
  EXPECT_THAT(imported.yaml, HasSubstr("jitter: 30m"));
  EXPECT_THAT(Notes(imported), Contains(HasSubstr("steps over the whole field")));
  EXPECT_THAT(Notes(imported), Contains(HasSubstr("a stable one")));
}

TEST(CrontabTest, WhatCannotBeReadIsSaidWithItsLineAndTheRestIsTaken) {
  const ImportedCrontab imported = Import(
      "* * * * * a\nnonsense\n0 0 30 2 * never\n* * * * *\n"
      "61 * * * * b\n* * * * * c\n");
  EXPECT_EQ(imported.entries.size(), 2u);
  std::vector<std::uint32_t> lines;
  for (const CrontabNote& note : imported.notes) {
    if (note.error) lines.push_back(note.line);
  }
  EXPECT_THAT(lines, ElementsAre(2, 3, 4, 5));
  Load(imported);
}

TEST(CrontabTest, MailIsSaid) {
  EXPECT_THAT(Notes(Import("MAILTO=ops@example.org\n@daily a\n")),
              ElementsAre(HasSubstr("mailed to ops@example.org")));
  EXPECT_THAT(Notes(Import("MAILTO=\"\"\n@daily a\n")), IsEmpty());
}

TEST(CrontabTest, ChangesOnTheNightsWhenClocksChangeAreSaid) {
  // cron looks at the machine's zone alone: under CRON_TZ it ran twice and not at all.
  const auto zoned = [](const std::string& entry) {
    return Notes(Import("CRON_TZ=Europe/Berlin\n" + entry + "\n"));
  };
  EXPECT_THAT(zoned("30 2 * * * a"),
              ElementsAre(HasSubstr("ran twice on the autumn night"), HasSubstr("did not run")));
  EXPECT_THAT(zoned("30 4 * * * a"), IsEmpty());
  EXPECT_THAT(zoned("30 * * * * a"), IsEmpty());
  EXPECT_THAT(zoned("@reboot a"), IsEmpty());
  EXPECT_EQ(std::get<TimerSpec>(Load(Import("CRON_TZ=Europe/Berlin\n@daily a\n")).sources[0].spec)
                .schedule.timezone,
            "Europe/Berlin");
  CrontabOptions berlin = Options();
  berlin.zone = "Europe/Berlin";
  EXPECT_THAT(Notes(Import("30 2 * * * a\n", berlin)), IsEmpty());
  EXPECT_THAT(Notes(Import("*/20 1-3 * * * a\n", berlin)),
              ElementsAre(HasSubstr("did not run at a time that clocks skip")));
  EXPECT_THAT(Notes(Import("5 1-3 * * * a\n", berlin)),
              ElementsAre(HasSubstr("it will run in both")));
}

TEST(CrontabTest, StrictKeepsTheWaysOfCron) {
  CrontabOptions strict = Options();
  strict.strict = true;
  const ImportedCrontab imported = Import("@daily a\n", strict);
  const Config config = Load(imported);
  const ScheduleSpec& schedule = std::get<TimerSpec>(config.sources[0].spec).schedule;
  EXPECT_EQ(schedule.overlap, OverlapPolicy::kAllow);
  EXPECT_EQ(schedule.missed, MissedPolicy::kSkip);
  for (const CrontabNote& note : imported.notes) {
    EXPECT_THAT(note.text, Not(HasSubstr("--strict")));
  }
}

TEST(CrontabTest, NoInputBreaksIt) {
  for (const std::string text :
       {"", "\n\n", "=", "A=", "\"", "'x", "- ", "@", "@reboot", "* * * * * %", "* * * * * \\%",
        "* * * * * a%", "~ ~ ~ ~ ~ a", "*/ * * * * a", "*/999999999999 * * * * a", ",,, * * * * a",
        "* * * * * \"'", "RANDOM_DELAY=x\n@daily a",
        // Found by fuzzing: each made a configuration that did not load.
        "RANDOM_DELAY=-1\n@daily a", "RANDOM_DELAY=99999\n@daily a", "SHELL=\n@daily a",
        "HOME=\n@daily a", "1A=x\n@daily a", "CE_ID=x\n@daily a"}) {
    Load(Import(text));
  }
  Load(Import(std::string("@daily a\0b\n@daily c", 18)));
}

}  // namespace
}  // namespace tocsin::cli
