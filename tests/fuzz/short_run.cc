// Runs a fuzz target without libFuzzer: its corpus, and then inputs made from it by a seed, so that
// every build, also the sanitized one, tries each parser for a moment. No feedback: what is to be
// found by coverage is for `make fuzz`.
//
//   THING_fuzz CORPUS SECONDS
//
// What ends the process is told with the input that did it, as a file beside it: crash-THING.

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "broker/base/random.h"
#include "broker/base/system_clock.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace tocsin {
namespace {

constexpr std::size_t kBytesMax = 64 * 1024;
constexpr int kMutationsMax = 6;

std::string input;  // the one under way
std::string crash_path;

extern "C" void KeepInput(int signal) {
  if (std::FILE* file = std::fopen(crash_path.c_str(), "wb")) {
    std::fwrite(input.data(), 1, input.size(), file);
    std::fclose(file);
  }
  const std::string text = fmt::format("the input is in {}\n", crash_path);
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) std::signal(signal, SIG_IGN);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void Try() {
  // A copy of just its size, so that a sanitizer sees what reads beyond it.
  const std::vector<std::uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// Lengths and numbers that are on an edge somewhere.
void PutNumber(std::string& text, SeededRandom& random) {
  static constexpr std::array<std::uint64_t, 12> kEdges = {
      0, 1, 127, 128, 255, 256, 65535, 65536, 0x7fffffff, 0xffffffff, 1ull << 62, ~0ull};
  std::uint64_t value = kEdges[random.Below(kEdges.size())];
  const std::uint64_t form = random.Below(3);
  if (form == 0) {
    text += std::to_string(value);
    return;
  }
  for (int i = 0; i < 8; ++i, value >>= form == 1 ? 8 : 7) {
    const bool last = form == 2 && value < 128;
    text += static_cast<char>(form == 1 || last ? value & 0xff : (value & 0x7f) | 0x80);
    if (last) break;
  }
}

std::string Mutated(const std::vector<std::string>& corpus, SeededRandom& random) {
  std::string text = corpus[random.Below(corpus.size())];
  for (std::uint64_t left = 1 + random.Below(kMutationsMax); left > 0; --left) {
    const std::size_t at = random.Below(text.size() + 1);
    const std::size_t count = random.Below(text.size() - at + 1);
    switch (random.Below(7)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << random.Below(8)));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(random.Below(256));
        break;
      case 2:
        text.erase(at, random.Below(16));
        break;
      case 3:
        text.resize(at);
        break;
      case 4:
        if (text.size() + count <= kBytesMax) text.insert(at, text.substr(at, count));
        break;
      case 5: {
        const std::string& other = corpus[random.Below(corpus.size())];
        const std::size_t from = random.Below(other.size() + 1);
        text = text.substr(0, at) + other.substr(from);
        break;
      }
      default: {
        std::string number;
        PutNumber(number, random);
        text.insert(at, number);
      }
    }
  }
  return text.substr(0, kBytesMax);
}

int Run(const std::string& folder, double seconds) {
  std::vector<std::string> corpus = {""};
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::FILE* file = std::fopen(entry.path().c_str(), "rb");
    if (file == nullptr) return 2;
    std::string& one = corpus.emplace_back(kBytesMax, '\0');
    one.resize(std::fread(one.data(), 1, one.size(), file));
    std::fclose(file);
  }
  if (corpus.size() < 2) {
    fmt::print(stderr, "there is no corpus in {}\n", folder);
    return 2;
  }
  crash_path = "crash-" + std::filesystem::path(folder).filename().string();
  for (const int signal : {SIGABRT, SIGSEGV}) std::signal(signal, KeepInput);
  for (const std::string& one : corpus) {
    input = one;
    Try();
  }
  const SystemClock clock;
  const Instant began = clock.Monotonic();
  SeededRandom random(1);
  std::uint64_t tried = corpus.size();
  for (; clock.Monotonic() - began < std::chrono::duration<double>(seconds); ++tried) {
    input = Mutated(corpus, random);
    Try();
  }
  fmt::print("{} of corpus, {} inputs\n", corpus.size() - 1, tried);
  return 0;
}

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  return tocsin::Run(argv[1], std::atof(argv[2]));
}
