// The thread team and the tasks on it: every task once, whoever calls, and after a fork.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>

#include "check.h"
#include "common/cpu/threads.h"

namespace dyndeploy::test {
namespace {

dyndeploy_threads own(int32_t lanes) {
  dyndeploy_threads threads;
  CHECK_OK(dyndeploy_own_threads(lanes, &threads));
  return threads;
}

dyndeploy_resources with(const dyndeploy_threads* threads) {
  return {sizeof(dyndeploy_resources), threads, nullptr, 0, nullptr, 0};
}

// Runs `tasks` tasks and checks that each ran once, on a lane of its own while it ran.
void check_tasks(const dyndeploy_threads* threads, int64_t tasks) {
  const Note note(tasks, " tasks on ", threads ? threads->lanes : 1, " lanes");
  const dyndeploy_resources resources = with(threads);
  const int lanes = lanes_for(&resources, tasks);
  CHECK(lanes >= 1 && lanes <= (threads ? threads->lanes : 1) && (lanes <= tasks || lanes == 1));
  std::vector<int> runs(static_cast<size_t>(tasks));     // no atomics: a data race is what is looked for
  std::vector<int64_t> sums(static_cast<size_t>(lanes));  // one per lane, as kernels use their scratch memory
  const auto caller = std::this_thread::get_id();
  bool strangers = false;
  auto task = [&](int lane, int64_t index) {
    CHECK(lane >= 0 && lane < lanes);
    ++runs[static_cast<size_t>(index)];
    sums[static_cast<size_t>(lane)] += index;
    if (!threads) strangers |= std::this_thread::get_id() != caller;
  };
  for_each_task(&resources, tasks, task);
  int64_t sum = 0;
  for (const int64_t s : sums) sum += s;
  CHECK_EQ(sum, tasks * (tasks - 1) / 2);
  for (const int r : runs) CHECK_EQ(r, 1);
  CHECK(!strangers);
}

// Every lane once, also where there are more lanes than threads.
void check_run(const dyndeploy_threads& threads, int32_t lanes) {
  const Note note("run with ", lanes, " lanes");
  std::vector<std::atomic<int>> runs(static_cast<size_t>(lanes));
  threads.run(
      threads.pool, lanes, [](void* work, int32_t lane) { ++(*static_cast<std::vector<std::atomic<int>>*>(work))[static_cast<size_t>(lane)]; },
      &runs);
  for (const std::atomic<int>& r : runs) CHECK_EQ(r.load(), 1);
}

void test_every_task_runs_once() {
  check_tasks(nullptr, 0);
  check_tasks(nullptr, 7);
  for (int32_t lanes = 1; lanes <= 8; ++lanes) {
    const dyndeploy_threads threads = own(lanes);
    CHECK_EQ(threads.lanes, lanes);
    for (const int64_t tasks : {0, 1, 2, 3, lanes, lanes + 1, 100}) check_tasks(&threads, tasks);
  }
  CHECK(own(0).lanes >= 1);
  for (const int32_t lanes : {0, 1, 2, 8, 9, 300}) check_run(own(3), lanes);
}

// A wake-up that is lost hangs here; ctest ends it by its time limit.
void test_thousands_of_small_rounds() {
  Random random(1);
  for (int32_t lanes = 2; lanes <= 5; ++lanes) {
    const dyndeploy_threads threads = own(lanes);
    for (int round = 0; round < 2000; ++round) {
      check_tasks(&threads, random.integer(1, 6));
      // Now and then the helpers have gone to sleep.
      if (round % 100 == 0) usleep(500);
    }
  }
}

// A task that calls again finds the team busy and does the inner tasks alone.
void test_nested() {
  const dyndeploy_threads threads = own(4);
  const dyndeploy_resources resources = with(&threads);
  std::atomic<int> inner{0};
  auto outer_task = [&](int, int64_t) {
    const auto caller = std::this_thread::get_id();
    auto inner_task = [&](int, int64_t) {
      CHECK(std::this_thread::get_id() == caller);
      ++inner;
    };
    for_each_task(&resources, 5, inner_task);
  };
  for_each_task(&resources, 16, outer_task);
  CHECK_EQ(inner.load(), 80);
}

void test_concurrent_callers() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([caller] {
      // Teams that grow while others use them, too.
      const dyndeploy_threads threads = own(2 + caller);
      for (int round = 0; round < 300; ++round) check_tasks(&threads, 1 + round % 9);
    });
  for (std::thread& caller : callers) caller.join();
}

// While one caller has the team, another one does not wait for it.
void test_busy_team() {
  const dyndeploy_threads threads = own(3);
  std::atomic<int> started{0};
  std::atomic<bool> go{false};
  std::thread first([&] {
    const dyndeploy_resources resources = with(&threads);
    auto task = [&](int, int64_t) {
      ++started;
      while (!go) std::this_thread::yield();
    };
    for_each_task(&resources, 3, task);
  });
  while (started == 0) std::this_thread::yield();
  check_tasks(&threads, 50);
  go = true;
  first.join();
}

// ThreadSanitizer allows a forked child no threads of its own.
#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadsInChild = false;
#else
constexpr bool kThreadsInChild = true;
#endif

void in_a_child(void (*body)()) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(20);
    body();
    std::_Exit(0);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
}

void test_fork() {
  static const dyndeploy_threads before = own(4);
  check_tasks(&before, 20);
  in_a_child([] {
    check_tasks(&before, 20);  // no helper is alive here
    if (!kThreadsInChild) return;
    const dyndeploy_threads threads = own(3);
    for (int round = 0; round < 50; ++round) check_tasks(&threads, 20);
    in_a_child([] { check_tasks(&before, 20); });
  });
  check_tasks(&before, 20);
}

// A fork while another thread has the team: busy in the parent, but free in the child.
void test_fork_of_a_busy_team() {
  static const dyndeploy_threads threads = own(3);
  std::atomic<bool> go{false}, started{false};
  std::thread first([&] {
    const dyndeploy_resources resources = with(&threads);
    auto task = [&](int, int64_t) {
      started = true;
      while (!go) std::this_thread::yield();
    };
    for_each_task(&resources, 3, task);
  });
  while (!started) std::this_thread::yield();
  in_a_child([] {
    check_tasks(&threads, 20);
    if (!kThreadsInChild) return;
    const dyndeploy_threads own_of_child = own(3);
    const dyndeploy_resources resources = with(&own_of_child);
    // Waits for its sibling, which is there only if the team was free and has a helper.
    std::atomic<int> here{0};
    auto task = [&](int, int64_t) {
      ++here;
      while (here < 2) std::this_thread::yield();
    };
    for_each_task(&resources, 2, task);
  });
  go = true;
  first.join();
}

// --- OpenMP

int parallel_calls = 0;
unsigned parallel_threads = 0;

// Like libgomp inside of another parallel region: fewer threads than were asked for.
void fake_gomp_parallel(void (*function)(void*), void* data, unsigned threads, unsigned flags) {
  CHECK_EQ(flags, 0u);
  ++parallel_calls;
  std::vector<std::thread> team;
  for (unsigned t = 1; t < std::min(threads, parallel_threads); ++t) team.emplace_back(function, data);
  function(data);
  for (std::thread& thread : team) thread.join();
}

void test_openmp() {
  for (const unsigned available : {1u, 2u, 8u})
    for (const int32_t lanes : {1, 2, 5}) {
      parallel_threads = available;
      dyndeploy_threads threads;
      CHECK_OK(dyndeploy_openmp_threads(reinterpret_cast<void*>(&fake_gomp_parallel), lanes, &threads));
      CHECK_EQ(threads.lanes, lanes);
      for (const int32_t run : {0, 1, 4}) check_run(threads, run);
      parallel_calls = 0;
      for (const int64_t tasks : {0, 1, 3, 40}) check_tasks(&threads, tasks);
      CHECK_EQ(parallel_calls, lanes == 1 ? 0 : 2);  // one lane, or one task, needs no region
    }
}

// --- what is refused

void test_misuse() {
  dyndeploy_threads threads;
  CHECK_REFUSED(dyndeploy_own_threads(-1, &threads), "own_threads", "-1");
  CHECK_REFUSED(dyndeploy_own_threads(2, nullptr), "own_threads");
  void* const parallel = reinterpret_cast<void*>(&fake_gomp_parallel);
  CHECK_REFUSED(dyndeploy_openmp_threads(nullptr, 2, &threads), "openmp_threads");
  CHECK_REFUSED(dyndeploy_openmp_threads(parallel, 0, &threads), "openmp_threads");
  CHECK_REFUSED(dyndeploy_openmp_threads(parallel, 2, nullptr), "openmp_threads");

  threads = own(2);
  dyndeploy_resources resources = with(&threads);
  CHECK_OK(check_resources("op", &resources));
  CHECK_REFUSED(check_resources("op", nullptr), "op", "resources");
  resources.size -= 8;
  CHECK_REFUSED(check_resources("op", &resources), "op", "resources");
  resources = with(&threads);
  threads.size = 0;
  CHECK_REFUSED(check_resources("op", &resources), "op", "threads");
  threads = own(2);
  threads.lanes = 0;
  CHECK_REFUSED(check_resources("op", &resources), "op", "lanes");
  threads = own(2);
  threads.run = nullptr;
  CHECK_REFUSED(check_resources("op", &resources), "op", "run");

  CHECK_REFUSED(dyndeploy_use_instructions("sse9"), "sse9");
  CHECK_OK(dyndeploy_use_instructions("portable"));
  CHECK_EQ(std::string(dyndeploy_instructions()), "portable");
  CHECK_OK(dyndeploy_use_instructions(nullptr));
}

// A message belongs to the thread whose call failed.
void test_messages_of_threads() {
  CHECK_REFUSED(dyndeploy_use_instructions("mine"), "mine");
  std::thread([] {
    CHECK_EQ(std::string(dyndeploy_message()), "");
    CHECK_REFUSED(dyndeploy_use_instructions("yours"), "yours");
  }).join();
  CHECK(std::string(dyndeploy_message()).find("mine") != std::string::npos);
}

}  // namespace
}  // namespace dyndeploy::test

int main() {
  using namespace dyndeploy::test;
  test_every_task_runs_once();
  test_thousands_of_small_rounds();
  test_nested();
  test_concurrent_callers();
  test_busy_team();
  test_fork();
  test_fork_of_a_busy_team();
  test_openmp();
  test_misuse();
  test_messages_of_threads();
}
