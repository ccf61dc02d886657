// A CUDA driver that is host memory, for cuda-python to run on where there is none: what sessions call of it, and no more.
// Work is done at once, or recorded by a capture. FAKE_DRIVER_FAIL=name:status makes a function fail.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };

typedef struct {
  void *target;
  const void *source;
  size_t size;
} Copy;

typedef struct {
  Copy copies[64];
  int count;
} Graph;

typedef struct {
  Graph *capture;
} Stream;

static int context, pool, device_count = 1;
static _Thread_local void *current;
static long live_blocks, live_streams, live_graphs, live_events;

static Result fails(const char *name) {
  const char *given = getenv("FAKE_DRIVER_FAIL");
  const size_t length = strlen(name);
  return given && !strncmp(given, name, length) && given[length] == ':' ? atoi(given + length + 1) : SUCCESS;
}
#define CALL(name)                     \
  do {                                 \
    const Result status = fails(name); \
    if (status) return status;         \
  } while (0)

// What tests ask: blocks, streams, graphs and events that are alive.
void fake_driver_live(long *counts) {
  counts[0] = live_blocks, counts[1] = live_streams, counts[2] = live_graphs, counts[3] = live_events;
}

// How cuda-python finds the others: by names without versions. What is not here is not called.
Result cuGetProcAddress_v2(const char *symbol, void **found, int version, uint64_t flags, int *status) {
  (void)version, (void)flags;
  static void *self;
  Dl_info info;
  if (!self && dladdr(&context, &info)) self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  *found = NULL;
  for (const char *const *suffix = (const char *const[]){"", "_v2", "_v3", NULL}; *suffix && !*found; ++suffix) {
    char name[128];
    snprintf(name, sizeof name, "%s%s", symbol, *suffix);
    *found = dlsym(self, name);
  }
  if (status) *status = *found ? 0 : 1;
  return *found ? SUCCESS : NOT_FOUND;
}

Result cuInit(unsigned flags) {
  (void)flags;
  CALL("cuInit");
  return SUCCESS;
}
Result cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
Result cuDeviceGetCount(int *count) { return *count = device_count, SUCCESS; }
Result cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal < device_count ? SUCCESS : 101; }
Result cuDeviceGetName(char *name, int length, int device) {
  (void)device;
  return snprintf(name, (size_t)length, "Fake GPU"), SUCCESS;
}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  return *value = attribute == 75 ? 8 : attribute == 76 ? 9 : 1, SUCCESS;  // compute capability 8.9; the rest: yes
}
Result cuDevicePrimaryCtxRetain(void **made, int device) {
  (void)device;
  return *made = &context, SUCCESS;
}
Result cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  return SUCCESS;
}
Result cuCtxSetCurrent(void *given) { return current = given, SUCCESS; }
Result cuCtxGetCurrent(void **found) { return *found = current, SUCCESS; }
Result cuCtxPushCurrent_v2(void *given) { return current = given, SUCCESS; }
Result cuCtxPopCurrent_v2(void **found) { return *found = current, SUCCESS; }
Result cuCtxGetDevice(int *device) { return *device = 0, current ? SUCCESS : 201; }
Result cuCtxGetDevice_v2(int *device, void *given) {
  (void)given;
  return *device = 0, SUCCESS;
}
Result cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, SUCCESS; }

Result cuDeviceGetMemPool(void **found, int device) {
  (void)device;
  return *found = &pool, SUCCESS;
}
Result cuDeviceGetDefaultMemPool(void **found, int device) { return cuDeviceGetMemPool(found, device); }
Result cuMemPoolGetAttribute(void *given, int attribute, void *value) {
  (void)given, (void)attribute;
  return *(uint64_t *)value = 0, SUCCESS;
}
Result cuMemPoolSetAttribute(void *given, int attribute, void *value) {
  (void)given, (void)attribute, (void)value;
  return SUCCESS;
}

static Result make(uint64_t *address, size_t size) {
  void *const block = aligned_alloc(256, (size + 255) / 256 * 256);
  if (!block) return OUT_OF_MEMORY;
  memset(block, 0xA5, size);
  ++live_blocks;
  return *address = (uint64_t)(uintptr_t)block, SUCCESS;
}
static Result end(uint64_t address) {
  free((void *)(uintptr_t)address);
  --live_blocks;
  return SUCCESS;
}
Result cuMemAllocFromPoolAsync(uint64_t *address, size_t size, void *given, void *stream) {
  (void)given, (void)stream;
  CALL("cuMemAllocFromPoolAsync");
  return make(address, size);
}
Result cuMemFreeAsync(uint64_t address, void *stream) {
  (void)stream;
  return end(address);
}
Result cuMemAllocHost_v2(void **address, size_t size) {
  CALL("cuMemAllocHost");
  return make((uint64_t *)address, size);
}
Result cuMemFreeHost(void *address) { return end((uint64_t)(uintptr_t)address); }
Result cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
  (void)address;
  return *(int *)value = attribute == 2 ? 2 : 0, SUCCESS;  // 2: the type of memory, 2 is the GPU's; the GPU's index is 0
}
Result cuPointerGetAttributes(unsigned count, int *attributes, void **values, uint64_t address) {
  for (unsigned i = 0; i < count; ++i) cuPointerGetAttribute(values[i], attributes[i], address);
  return SUCCESS;
}

Result cuStreamCreateWithPriority(void **made, unsigned flags, int priority) {
  (void)flags, (void)priority;
  CALL("cuStreamCreateWithPriority");
  ++live_streams;
  return *made = calloc(1, sizeof(Stream)), SUCCESS;
}
Result cuStreamDestroy_v2(void *stream) {
  --live_streams;
  return free(stream), SUCCESS;
}
Result cuStreamGetCtx(void *stream, void **found) {
  (void)stream;
  return *found = &context, SUCCESS;
}
Result cuStreamGetPriority(void *stream, int *priority) {
  (void)stream;
  return *priority = 0, SUCCESS;
}
Result cuStreamSynchronize(void *stream) {
  (void)stream;
  CALL("cuStreamSynchronize");
  return SUCCESS;
}
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
  (void)stream, (void)event, (void)flags;
  CALL("cuStreamWaitEvent");
  return SUCCESS;
}
Result cuEventCreate(void **made, unsigned flags) {
  (void)flags;
  ++live_events;
  return *made = malloc(1), SUCCESS;
}
Result cuEventRecord(void *event, void *stream) {
  (void)event, (void)stream;
  return SUCCESS;
}
Result cuEventDestroy_v2(void *event) {
  --live_events;
  return free(event), SUCCESS;
}

Result cuMemcpyAsync(uint64_t target, uint64_t source, size_t size, void *given) {
  CALL("cuMemcpyAsync");
  const Copy copy = {(void *)(uintptr_t)target, (const void *)(uintptr_t)source, size};
  Stream *const stream = given;
  if ((uintptr_t)stream > 2 && stream->capture)
    stream->capture->copies[stream->capture->count++] = copy;
  else
    memcpy(copy.target, copy.source, copy.size);
  return SUCCESS;
}

Result cuStreamBeginCapture_v2(void *stream, int mode) {
  (void)mode;
  CALL("cuStreamBeginCapture");
  return ((Stream *)stream)->capture = calloc(1, sizeof(Graph)), SUCCESS;
}
Result cuStreamIsCapturing(void *stream, int *status) {
  return *status = (uintptr_t)stream > 2 && ((Stream *)stream)->capture, SUCCESS;
}
Result cuStreamGetCaptureInfo_v3(void *stream, int *status, uint64_t *id, void **graph, const void **nodes,
                                 const void **edges, size_t *count) {
  Graph *const capture = (uintptr_t)stream > 2 ? ((Stream *)stream)->capture : NULL;
  *status = capture != NULL;
  if (id) *id = 1;
  if (graph) *graph = capture;
  if (nodes) *nodes = NULL;
  if (edges) *edges = NULL;
  if (count) *count = 0;
  return SUCCESS;
}
Result cuStreamEndCapture(void *stream, void **graph) {
  *graph = ((Stream *)stream)->capture;
  ((Stream *)stream)->capture = NULL;
  CALL("cuStreamEndCapture");
  return SUCCESS;
}
Result cuGraphInstantiateWithParams(void **made, void *graph, void *parameters) {
  (void)parameters;
  ++live_graphs;
  *made = malloc(sizeof(Graph));
  return memcpy(*made, graph, sizeof(Graph)), SUCCESS;
}
Result cuGraphInstantiateWithFlags(void **made, void *graph, uint64_t flags) {
  (void)flags;
  return cuGraphInstantiateWithParams(made, graph, NULL);
}

typedef struct {
  void (*destroy)(void *);
  void *value;
  unsigned count;
} Object;
Result cuUserObjectCreate(void **made, void *value, void (*destroy)(void *), unsigned count, unsigned flags) {
  (void)flags;
  Object *const object = malloc(sizeof(Object));
  *object = (Object){destroy, value, count};
  return *made = object, SUCCESS;
}
Result cuUserObjectRelease(void *given, unsigned count) {
  Object *const object = given;
  if (object->count -= count) return SUCCESS;
  object->destroy(object->value);
  return free(object), SUCCESS;
}
Result cuGraphRetainUserObject(void *graph, void *object, unsigned count, unsigned flags) {
  (void)graph;
  if (!(flags & 1)) ((Object *)object)->count += count;  // 1: takes over the caller's
  return SUCCESS;
}
Result cuGraphReleaseUserObject(void *graph, void *object, unsigned count) {
  (void)graph;
  return cuUserObjectRelease(object, count);
}

Result cuGraphUpload(void *graph, void *stream) {
  (void)graph, (void)stream;
  return SUCCESS;
}
Result cuGraphLaunch(void *graph, void *stream) {
  (void)stream;
  CALL("cuGraphLaunch");
  for (int i = 0; i < ((Graph *)graph)->count; ++i) {
    const Copy copy = ((Graph *)graph)->copies[i];
    memcpy(copy.target, copy.source, copy.size);
  }
  return SUCCESS;
}
Result cuGraphExecDestroy(void *graph) {
  --live_graphs;
  return free(graph), SUCCESS;
}
Result cuGraphDestroy(void *graph) { return free(graph), SUCCESS; }

Result cuGetErrorName(Result status, const char **name) {
  *name = status == OUT_OF_MEMORY    ? "CUDA_ERROR_OUT_OF_MEMORY"
          : status == NO_DEVICE      ? "CUDA_ERROR_NO_DEVICE"
          : status == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                                      : "CUDA_ERROR_INVALID_VALUE";
  return SUCCESS;
}
Result cuGetErrorString(Result status, const char **text) {
  (void)status;
  return *text = "as the test says", SUCCESS;
}
