// RedisServer: a real redis-server on a socket in a directory of its own, for the life of the
// object.

#pragma once

#include <gtest/gtest.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace tocsin {

class RedisServer {
 public:
  RedisServer() {
    std::string name = (std::filesystem::temp_directory_path() / "tocsin-redis-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no temporary directory";
    dir_ = name;
    Start();
  }
  ~RedisServer() {
    Stop();
    std::filesystem::remove_all(dir_);
  }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  std::string socket() const { return dir_ + "/redis.sock"; }

  // What was there is kept, if the appendonly file was on.
  void Start() {
    std::vector<std::string> words = {
        "redis-server", "--port",      "0",  "--unixsocket", socket(),     "--dir",
        dir_,           "--save",      "",   "--appendonly", "yes",        "--appendfsync",
        "no",           "--daemonize", "no", "--logfile",    dir_ + "/log"};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const int failed =
        ::posix_spawnp(&process_, "redis-server", nullptr, nullptr, arguments.data(), environ);
    ASSERT_EQ(failed, 0) << "redis-server is missing: run deploy/install-deps --tests";
    for (int i = 0; i < 1000 && !Answers(); ++i) ::poll(nullptr, 0, 10);
    ASSERT_TRUE(Answers());
  }
  void Stop() {
    context_.reset();
    if (process_ > 0) {
      ::kill(process_, SIGKILL);
      ::waitpid(process_, nullptr, 0);
    }
    process_ = 0;
  }

  // A command whose answer is not wanted; it must be no error.
  void Do(const std::vector<std::string>& words) { (void)Ask(words); }
  // An integer answer, or the text of another.
  std::string Ask(const std::vector<std::string>& words) {
    std::vector<const char*> texts;
    std::vector<std::size_t> sizes;
    for (const std::string& word : words) {
      texts.push_back(word.data());
      sizes.push_back(word.size());
    }
    if (context_ == nullptr) context_.reset(redisConnectUnix(socket().c_str()));
    auto* reply = static_cast<redisReply*>(redisCommandArgv(
        context_.get(), static_cast<int>(words.size()), texts.data(), sizes.data()));
    if (reply == nullptr) {
      ADD_FAILURE() << words[0] << ": " << context_->errstr;
      context_.reset();
      return "";
    }
    EXPECT_NE(reply->type, REDIS_REPLY_ERROR) << words[0] << ": " << reply->str;
    std::string answer = reply->type == REDIS_REPLY_INTEGER ? std::to_string(reply->integer)
                         : reply->str != nullptr            ? std::string(reply->str, reply->len)
                                                            : std::string();
    freeReplyObject(reply);
    return answer;
  }

 private:
  struct Free {
    void operator()(redisContext* context) const { redisFree(context); }
  };
  bool Answers() {
    std::unique_ptr<redisContext, Free> probe(redisConnectUnix(socket().c_str()));
    if (probe == nullptr || probe->err != 0) return false;
    auto* reply = static_cast<redisReply*>(redisCommand(probe.get(), "PING"));
    const bool pong = reply != nullptr && reply->type == REDIS_REPLY_STATUS;
    if (reply != nullptr) freeReplyObject(reply);
    return pong;
  }

  std::string dir_;
  pid_t process_ = 0;
  std::unique_ptr<redisContext, Free> context_;
};

}  // namespace tocsin
