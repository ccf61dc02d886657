// Work divided into tasks that idle lanes fetch, over whatever threads the host gives.
#pragma once

#include <cstdint>

#include "common/api.h"
#include "common/status.h"

namespace dyndeploy {

// CPUs that this process may use.
int cpus();

// The threads of a call, after a check of the struct.
dyndeploy_status check_resources(const char* op, const dyndeploy_resources* resources);
// Lanes worth using: not more than there are tasks.
int lanes_for(const dyndeploy_resources* resources, int64_t tasks);

namespace detail {
void for_each_task(const dyndeploy_resources* resources, int64_t tasks, void (*task)(void*, int, int64_t), void* context);
}

// task(lane, index) for every index in 0..tasks-1. `lane` < lanes_for(resources, tasks) says which scratch memory the
// task may use. Which lane gets which task is left to chance: results must not depend on it.
template <class Task>
void for_each_task(const dyndeploy_resources* resources, int64_t tasks, Task& task) {
  detail::for_each_task(
      resources, tasks, [](void* context, int lane, int64_t index) { (*static_cast<Task*>(context))(lane, index); },
      &task);
}

}  // namespace dyndeploy
