#include "broker/base/shared_text.h"

#include "absl/container/flat_hash_map.h"
#include "broker/base/mutex.h"

namespace tocsin {
namespace {

class Pool {
 public:
  std::shared_ptr<const std::string> Find(std::string_view text) {
    const MutexLock lock(mutex_);
    if (const auto found = held_.find(text); found != held_.end()) {
      if (std::shared_ptr<const std::string> held = found->second.lock(); held != nullptr) {
        return held;
      }
      held_.erase(found);  // its last holder waits for the lock, to free it
    }
    std::shared_ptr<const std::string> made(new std::string(text),
                                            [this](const std::string* last) { Free(last); });
    held_.emplace(*made, made);
    return made;
  }
  std::size_t count() {
    const MutexLock lock(mutex_);
    return held_.size();
  }

 private:
  void Free(const std::string* text) {
    {
      const MutexLock lock(mutex_);
      const auto found = held_.find(*text);
      // Another of the same text may have been made since.
      if (found != held_.end() && found->first.data() == text->data()) held_.erase(found);
    }
    delete text;
  }

  Mutex mutex_;
  // The keys are the texts that are held.
  absl::flat_hash_map<std::string_view, std::weak_ptr<const std::string>> held_
      ABSL_GUARDED_BY(mutex_);
};

// Both of the process, and never destroyed: texts may be freed by whatever is.
Pool& TheOne() {
  static Pool& pool = *new Pool;
  return pool;
}

const std::string& Empty() {
  static const std::string& empty = *new std::string;
  return empty;
}

}  // namespace

SharedText::SharedText(std::string_view text) {
  if (!text.empty()) text_ = TheOne().Find(text);
}

const std::string& SharedText::str() const { return text_ == nullptr ? Empty() : *text_; }

std::size_t SharedText::HeldCount() { return TheOne().count(); }

}  // namespace tocsin
