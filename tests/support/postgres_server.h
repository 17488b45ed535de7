// PostgresServer: a real PostgreSQL on a socket in a directory of its own, for the life of the
// process that asks for it: a cluster takes a second or two to make, databases in it do not.

#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace tocsin {

class PostgresServer {
 public:
  static PostgresServer& Shared() {
    static PostgresServer server;
    return server;
  }
  ~PostgresServer() {
    if (process_ > 0) {
      ::kill(process_, SIGINT);
      ::waitpid(process_, nullptr, 0);
    }
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  std::string Url(const std::string& database) const {
    return fmt::format("host={} user=postgres dbname={}", dir_, database);
  }

  // The first value of the first row; empty if there is none.
  std::string Do(const std::string& sql, const std::string& database = "postgres") {
    std::unique_ptr<PGconn, decltype(&PQfinish)> connection(PQconnectdb(Url(database).c_str()),
                                                            &PQfinish);
    std::unique_ptr<PGresult, decltype(&PQclear)> result(PQexec(connection.get(), sql.c_str()),
                                                         &PQclear);
    const ExecStatusType status = PQresultStatus(result.get());
    EXPECT_TRUE(status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
        << sql << ": " << PQerrorMessage(connection.get());
    return PQntuples(result.get()) > 0 ? PQgetvalue(result.get(), 0, 0) : "";
  }

 private:
  PostgresServer() {
    std::string name = (std::filesystem::temp_directory_path() / "tocsin-pg-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no temporary directory";
    dir_ = name;
    // PostgreSQL refuses to run as root.
    if (::geteuid() == 0) {
      const passwd* user = ::getpwnam("postgres");
      if (user == nullptr || ::chown(dir_.c_str(), user->pw_uid, user->pw_gid) != 0) {
        ADD_FAILURE() << "no user postgres: run deploy/install-deps --tests";
      }
      prefix_ = {"setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"};
    }
    const std::string data = dir_ + "/data";
    const pid_t made = Spawn({Program("initdb"), "-D", data, "-A", "trust", "-U", "postgres",
                              "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"});
    int status = 1;
    ::waitpid(made, &status, 0);
    EXPECT_EQ(status, 0) << "initdb failed: run deploy/install-deps --tests";
    process_ = Spawn({Program("postgres"), "-D", data, "-h", "", "-k", dir_, "-c",
                      "wal_level=logical", "-c", "fsync=off", "-c", "max_replication_slots=20"});
    for (int i = 0; i < 6000 && !Answers(); ++i) ::poll(nullptr, 0, 10);
    EXPECT_TRUE(Answers());
  }

  static std::string Program(const std::string& name) {
    std::vector<std::string> found;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql", none)) {
      const std::string path = entry.path().string() + "/bin/" + name;
      if (std::filesystem::exists(path)) found.push_back(path);
    }
    return found.empty() ? name : *std::max_element(found.begin(), found.end());
  }
  pid_t Spawn(const std::vector<std::string>& command) {
    std::vector<std::string> words = prefix_;
    words.insert(words.end(), command.begin(), command.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", 1, 0);
    ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", 1, 0);
    pid_t pid = 0;
    EXPECT_EQ(::posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments.data(), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
    return pid;
  }
  bool Answers() { return PQping(Url("postgres").c_str()) == PQPING_OK; }

  std::string dir_;
  std::vector<std::string> prefix_;
  pid_t process_ = 0;
};

}  // namespace tocsin
