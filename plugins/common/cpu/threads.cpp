#include "common/cpu/threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <system_error>
#include <thread>

namespace dyndeploy {
namespace {

// --- tasks

struct Tasks {
  std::atomic<int64_t> next{0};
  int64_t count;
  void (*task)(void*, int, int64_t);
  void* context;
};

void take_tasks(void* work, int32_t lane) {
  auto& tasks = *static_cast<Tasks*>(work);
  for (int64_t i; (i = tasks.next.fetch_add(1, std::memory_order_relaxed)) < tasks.count;)
    tasks.task(tasks.context, lane, i);
}

// --- the library's own team

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int kMostHelpers = 255;
// Polls before a thread sleeps: some ten microseconds, the time between two layers of a network, not more, because
// while it polls it takes a core from others.
constexpr int kPolls = 2000;

// A team of threads that sleep between calls. The caller is lane 0, helper h is lane h + 1.
class Team {
 public:
  // Threads that cannot be started are done without: fewer lanes then do all the work.
  void grow(int helpers) {
    helpers = std::min(helpers, kMostHelpers);
    if (helpers_.load() >= helpers) return;
    while (busy_.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
    try {
      for (int h = helpers_; h < helpers; ++h) {
        std::thread([this, h, seen = round_.load()] { help(h, seen); }).detach();
        helpers_ = h + 1;
      }
    } catch (const std::system_error&) {
    }
    busy_.store(false, std::memory_order_release);
  }

  void run(int32_t lanes, void (*lane)(void*, int32_t), void* work) {
    const bool alone = lanes <= 1 || busy_.exchange(true, std::memory_order_acquire);
    if (alone) {
      for (int32_t i = 0; i < lanes; ++i) lane(work, i);
      return;
    }
    const int helpers = std::min(lanes - 1, helpers_.load());
    lane_ = lane;
    work_ = work;
    wanted_ = helpers;
    left_.store(helpers_, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    lane(work, 0);
    for (int32_t i = helpers + 1; i < lanes; ++i) lane(work, i);
    for (int polls = 0, left; (left = left_.load(std::memory_order_acquire)) != 0;)
      ++polls < kPolls ? pause() : left_.wait(left, std::memory_order_acquire);
    busy_.store(false, std::memory_order_release);
  }

  // The threads of a process do not live on in a fork of it.
  void forget() {
    new (this) Team;
  }

 private:
  void help(int helper, uint32_t seen) {
    for (;;) {
      for (int polls = 0; round_.load(std::memory_order_acquire) == seen;)
        ++polls < kPolls ? pause() : round_.wait(seen, std::memory_order_acquire);
      ++seen;
      if (helper < wanted_) lane_(work_, helper + 1);
      if (left_.fetch_sub(1, std::memory_order_release) == 1) left_.notify_one();
    }
  }

  std::atomic<bool> busy_{false};
  std::atomic<int> helpers_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<int> left_{0};
  void (*lane_)(void*, int32_t) = nullptr;
  void* work_ = nullptr;
  int wanted_ = 0;
};

// Never destroyed: its threads run until the process ends.
Team& team() {
  alignas(Team) static unsigned char memory[sizeof(Team)];
  static Team* const only = [] {
    auto* made = new (memory) Team;
    pthread_atfork(nullptr, nullptr, [] { team().forget(); });
    return made;
  }();
  return *only;
}

void run_on_team(void*, int32_t lanes, void (*lane)(void*, int32_t), void* work) { team().run(lanes, lane, work); }

// --- OpenMP

struct Region {
  std::atomic<int32_t> next{0};
  int32_t lanes;
  void (*lane)(void*, int32_t);
  void* work;
};

// The host's pool holds the address of GOMP_parallel(function, data, threads, flags).
void run_on_openmp(void* pool, int32_t lanes, void (*lane)(void*, int32_t), void* work) {
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  if (lanes <= 1) {
    for (int32_t i = 0; i < lanes; ++i) lane(work, i);
    return;
  }
  Region region{.lanes = lanes, .lane = lane, .work = work};
  const auto body = [](void* data) {
    auto& r = *static_cast<Region*>(data);
    // Not the thread's number: inside of another parallel region there may be fewer threads than lanes.
    for (int32_t i; (i = r.next.fetch_add(1)) < r.lanes;) r.lane(r.work, i);
  };
  reinterpret_cast<Parallel>(pool)(body, &region, static_cast<unsigned>(lanes), 0);
}

}  // namespace

int cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

dyndeploy_status check_resources(const char* op, const dyndeploy_resources* resources) {
  if (!resources) return bad_argument("%s: resources is NULL", op);
  if (resources->size != sizeof(dyndeploy_resources))
    return bad_argument("%s: resources has %llu bytes, this library knows %zu", op,
                        static_cast<unsigned long long>(resources->size), sizeof(dyndeploy_resources));
  const dyndeploy_threads* threads = resources->threads;
  if (!threads) return DYNDEPLOY_OK;
  if (threads->size != sizeof(dyndeploy_threads))
    return bad_argument("%s: threads has %llu bytes, this library knows %zu", op,
                        static_cast<unsigned long long>(threads->size), sizeof(dyndeploy_threads));
  if (threads->lanes < 1 || !threads->run) return bad_argument("%s: threads without lanes or without run", op);
  return DYNDEPLOY_OK;
}

int lanes_for(const dyndeploy_resources* resources, int64_t tasks) {
  const int64_t lanes = resources->threads ? resources->threads->lanes : 1;
  return static_cast<int>(std::max<int64_t>(1, std::min(lanes, tasks)));
}

void detail::for_each_task(const dyndeploy_resources* resources, int64_t tasks, void (*task)(void*, int, int64_t),
                           void* context) {
  const int lanes = lanes_for(resources, tasks);
  if (lanes == 1) {
    for (int64_t i = 0; i < tasks; ++i) task(context, 0, i);
    return;
  }
  Tasks work{.count = tasks, .task = task, .context = context};
  resources->threads->run(resources->threads->pool, lanes, take_tasks, &work);
}

}  // namespace dyndeploy

dyndeploy_status dyndeploy_own_threads(int32_t lanes, dyndeploy_threads* threads) {
  if (!threads || lanes < 0) return dyndeploy::bad_argument("own_threads: lanes %d, threads %p", lanes, (void*)threads);
  if (lanes == 0) lanes = dyndeploy::cpus();
  dyndeploy::team().grow(lanes - 1);
  *threads = {sizeof(dyndeploy_threads), lanes, nullptr, dyndeploy::run_on_team};
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_openmp_threads(void* gomp_parallel, int32_t lanes, dyndeploy_threads* threads) {
  if (!gomp_parallel || !threads || lanes < 1)
    return dyndeploy::bad_argument("openmp_threads: GOMP_parallel %p, lanes %d, threads %p", gomp_parallel, lanes,
                                   (void*)threads);
  *threads = {sizeof(dyndeploy_threads), lanes, gomp_parallel, dyndeploy::run_on_openmp};
  return DYNDEPLOY_OK;
}
