// Memory and a stream of what runs the kernels: a GPU, or with DYNDEPLOY_EMULATOR the emulator, to which the host's
// memory is the device's. All else in these tests is the same for both.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>

#include "check.h"

#ifdef DYNDEPLOY_EMULATOR
#include "emulator/emulator.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace dyndeploy::test {

#ifdef DYNDEPLOY_EMULATOR

// Exactly `bytes` of it, `past` bytes after a multiple of 256: a sanitizer sees what is touched beyond, and so does the
// emulator where it checks all accesses of kernels.
class DeviceMemory {
 public:
  enum class Use {
    input,    // read only
    output,   // never read before it is written
    scratch,  // the same
  };

  DeviceMemory(const char* name, uint64_t bytes, uint64_t past, Use use)
      : name_(name), size_(bytes), past_(past), use_(use) {
    void* memory = nullptr;
    CHECK_EQ(posix_memalign(&memory, 256, past + bytes), 0);
    memory_.reset(static_cast<unsigned char*>(memory));
  }

  unsigned char* data() const { return memory_.get() + past_; }
  uint64_t size() const { return size_; }

  void upload(const void* from) {
    if (!size_) return;
    std::memcpy(data(), from, size_);
    const bool input = use_ == Use::input;
    buffer_.reset();
    buffer_ = std::make_unique<emulator::Buffer>(
        data(), size_, name_, input ? emulator::Access::read_only : emulator::Access::read_write,
        input ? emulator::Contents::initialised : emulator::Contents::uninitialised);
  }
  void download(void* to) const {
    if (size_) std::memcpy(to, data(), size_);
  }

 private:
  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };
  const char* name_;
  uint64_t size_, past_;
  Use use_;
  std::unique_ptr<unsigned char, Free> memory_;
  std::unique_ptr<emulator::Buffer> buffer_;
};

inline const bool errors_have_notes = (emulator::on_error(print_notes), true);

// The stream of all calls.
inline void* current_stream() { return nullptr; }

// body(what) several times: in every order that the emulator has.
template <class Body>
void for_each_run(Random& random, Body body) {
  using emulator::Order;
  emulator::set_schedule({Order::backward, 0});
  body("threads and blocks backwards");
  emulator::set_schedule({Order::random, random.next()});
  body("threads in random order");
  emulator::set_schedule({Order::forward, 0});
}

#else

#define CHECK_CUDA(call)                                                                                     \
  do {                                                                                                       \
    const cudaError_t check_error = (call);                                                                  \
    if (check_error != cudaSuccess)                                                                          \
      ::dyndeploy::test::fail(__FILE__, __LINE__,                                                            \
                              ::dyndeploy::test::both(#call, check_error, cudaGetErrorString(check_error))); \
  } while (false)

class DeviceMemory {
 public:
  enum class Use { input, output, scratch };

  DeviceMemory(const char*, uint64_t bytes, uint64_t past, Use) : size_(bytes), past_(past) {
    void* memory = nullptr;
    CHECK_CUDA(cudaMalloc(&memory, past + bytes + 1));
    memory_.reset(static_cast<unsigned char*>(memory));
  }

  unsigned char* data() const { return memory_.get() + past_; }
  uint64_t size() const { return size_; }

  void upload(const void* from) {
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK_CUDA(cudaMemcpy(data(), from, size_, cudaMemcpyHostToDevice));
    CHECK_CUDA(cudaDeviceSynchronize());  // what was pageable may still be on its way
  }
  // What all streams have left there.
  void download(void* to) const {
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK_CUDA(cudaMemcpy(to, data(), size_, cudaMemcpyDeviceToHost));
  }

 private:
  struct Free {
    void operator()(unsigned char* memory) const { cudaFree(memory); }
  };
  std::unique_ptr<unsigned char, Free> memory_;
  uint64_t size_, past_;
};

// The stream of all calls: the default one, or one of its own that does not wait for it.
inline cudaStream_t stream_in_use = nullptr;
inline void* current_stream() { return stream_in_use; }

class OwnStream {
 public:
  OwnStream() {
    CHECK_CUDA(cudaStreamCreateWithFlags(&stream_in_use, cudaStreamNonBlocking));
  }
  ~OwnStream() {
    cudaStreamSynchronize(stream_in_use);
    cudaStreamDestroy(stream_in_use);
    stream_in_use = nullptr;
  }
  OwnStream(const OwnStream&) = delete;
};

// body(what) several times: again, and on a stream of its own.
template <class Body>
void for_each_run(Random&, Body body) {
  body("again");
  const OwnStream stream;
  body("on a stream of its own");
}

// What call() enqueues, to be run many times. Nothing of it runs while it is captured.
class Graph {
 public:
  template <class Body>
  explicit Graph(Body call) {
    const OwnStream stream;
    cudaGraph_t graph = nullptr;
    CHECK_CUDA(cudaStreamBeginCapture(stream_in_use, cudaStreamCaptureModeGlobal));
    call();
    CHECK_CUDA(cudaStreamEndCapture(stream_in_use, &graph));
    CHECK_CUDA(cudaGraphInstantiate(&graph_, graph, 0));
    CHECK_CUDA(cudaGraphDestroy(graph));
  }
  ~Graph() { cudaGraphExecDestroy(graph_); }
  Graph(const Graph&) = delete;

  void run() const {
    CHECK_CUDA(cudaGraphLaunch(graph_, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
  }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

#endif

}  // namespace dyndeploy::test
