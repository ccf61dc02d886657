// What these tests need of a framework: checks that end the program with file, line, values and the case, and random
// numbers that are the same everywhere.
//
//   test_dcnv2 [cases [first]]    runs cases first, first + 1, …; case k draws its numbers from seed k
#pragma once

#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

#include "common/api.h"

namespace dyndeploy::test {

inline std::ostream& operator<<(std::ostream& out, const std::vector<int64_t>& values) {
  out << '[';
  for (size_t i = 0; i < values.size(); ++i) out << (i ? "," : "") << values[i];
  return out << ']';
}

// What is being tested just now, from the outermost to the innermost; printed by a failure.
inline thread_local std::vector<std::string> notes;

struct Note {
  template <class... Parts>
  explicit Note(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    notes.push_back(text.str());
  }
  ~Note() { notes.pop_back(); }
  Note(const Note&) = delete;
};

inline void print_notes() {
  for (const std::string& note : notes) std::fprintf(stderr, "  in %s\n", note.c_str());
}

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  print_notes();
  std::fflush(nullptr);
  std::_Exit(1);  // other threads may still be at work
}

template <class A, class B>
std::string both(const char* text, const A& a, const B& b) {
  std::ostringstream out;
  out.precision(17);
  out << text << ": " << a << " and " << b;
  return out.str();
}

#define CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::dyndeploy::test::fail(__FILE__, __LINE__, "not true: " #condition))

#define CHECK_EQ(a, b)                                                                                       \
  do {                                                                                                       \
    const auto& check_a = (a);                                                                               \
    const auto& check_b = (b);                                                                               \
    if (!(check_a == check_b))                                                                               \
      ::dyndeploy::test::fail(__FILE__, __LINE__,                                                            \
                              ::dyndeploy::test::both("not equal: " #a ", " #b, check_a, check_b));          \
  } while (false)

#define CHECK_OK(call)                                                                                       \
  do {                                                                                                       \
    const dyndeploy_status check_status = (call);                                                            \
    if (check_status != DYNDEPLOY_OK)                                                                        \
      ::dyndeploy::test::fail(__FILE__, __LINE__,                                                            \
                              ::dyndeploy::test::both(#call, check_status, dyndeploy_message()));            \
  } while (false)

// Whether `word` stands in the text and not only in the middle of another word.
inline bool has_word(const std::string& text, const std::string& word) {
  const auto letter = [&](size_t i) { return i < text.size() && (std::isalnum(text[i]) || text[i] == '_'); };
  for (size_t at = 0; (at = text.find(word, at)) != std::string::npos; ++at)
    if (!letter(at - 1) && !letter(at + word.size())) return true;
  return false;
}

// The call is refused, with a message that has all of the words in it.
inline void check_refused(const char* file, int line, const char* text, dyndeploy_status status,
                          const std::vector<std::string>& words) {
  const std::string message = dyndeploy_message();
  if (status == DYNDEPLOY_OK) fail(file, line, std::string("not refused: ") + text);
  if (status != DYNDEPLOY_BAD_ARGUMENT && status != DYNDEPLOY_UNSUPPORTED)
    fail(file, line, both("an unknown status", status, text));
  for (const std::string& word : words)
    if (!has_word(message, word)) fail(file, line, both("the message lacks a word", word, message));
}

#define CHECK_REFUSED(call, ...) ::dyndeploy::test::check_refused(__FILE__, __LINE__, #call, call, {__VA_ARGS__})

// splitmix64
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u) { next(); }

  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // low..high, both included.
  int64_t integer(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
  }
  bool chance(double p) { return uniform() < p; }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double normal() { return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform()); }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[integer(0, static_cast<int64_t>(values.size()) - 1)];
  }
  // A size up to `most`: often small, often next to a multiple of a vector's width, sometimes anything.
  int64_t size(int64_t most) {
    const int64_t near = pick<int64_t>({4, 8, 16, 32, 64}) * integer(1, 3) + integer(-1, 1);
    const int64_t drawn = chance(0.5) ? integer(1, 5) : chance(0.6) ? near : integer(1, most);
    return drawn < most ? drawn : most;
  }

 private:
  uint64_t state_;
};

// The cases that the command line asks for. `run(random)` is one of them.
template <class Run>
void fuzz(int argc, char** argv, int64_t cases, Run run) {
  if (argc > 1) cases = std::atoll(argv[1]);
  const int64_t first = argc > 2 ? std::atoll(argv[2]) : 1;
  for (int64_t k = first; k < first + cases; ++k) {
    const Note note("case ", k, "; again: ", argv[0], " 1 ", k);
    Random random(static_cast<uint64_t>(k));
    run(random);
  }
  std::printf("%lld cases\n", static_cast<long long>(cases));
}

}  // namespace dyndeploy::test
