// NVIDIA's driver as a library of this processor: its launches run the kernels' entry points, one
// thread after the other. So the launcher is tested where there is no GPU.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#define __CUDACC__
#define __global__
#define __host__
#define __device__
struct Dim {
    unsigned x = 0;
};
static Dim blockIdx, blockDim, threadIdx;
#include "device/entry.cu"

namespace {

using Entry = void (*)(const rowwise::DeviceCall, long long, int);
struct Named {
    const char* name;
    Entry entry;
};
const Named kEntries[] = {
#define ROWWISE_NAMED_ROWS(name, ...) {#name "_1", name##_1}, {#name "_4", name##_4},
#define ROWWISE_NAMED(name, ...) {#name, name},
    ROWWISE_ROW_KERNELS(ROWWISE_NAMED_ROWS) ROWWISE_OTHER_KERNELS(ROWWISE_NAMED)};
int contexts = 0;  // pushed and not popped

// Each call but the first few needs a context.
int in_context() { return contexts == 1 ? 0 : 201; }

}  // namespace

extern "C" {

int cuInit(unsigned) { return 0; }
int cuGetErrorString(int status, const char** text) {
    *text = status == 500 ? "named symbol not found" : "invalid device ordinal or context";
    return 0;
}
int cuDeviceGet(int* device, int number) {
    *device = 70 + number;
    return number == 0 ? 0 : 101;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = &contexts;
    return device == 70 ? 0 : 101;
}
int cuCtxPushCurrent_v2(void* context) {
    ++contexts;
    return context == &contexts ? 0 : 201;
}
int cuCtxPopCurrent_v2(void** context) {
    *context = &contexts;
    --contexts;
    return 0;
}
int cuModuleLoadData(void** module, const void* data) {
    *module = &contexts;
    return std::strcmp(static_cast<const char*>(data), "module") == 0 ? in_context() : 200;
}
int cuModuleGetFunction(void** function, void*, const char* name) {
    for (const Named& named : kEntries) {
        if (std::string(named.name) != name) continue;
        *function = reinterpret_cast<void*>(named.entry);
        return in_context();
    }
    return 500;
}
int cuLaunchKernel(void* function, unsigned blocks, unsigned y, unsigned z, unsigned threads,
                   unsigned, unsigned, unsigned shared, void*, void** arguments, void**) {
    if (y != 1 || z != 1 || shared != 0 || blocks == 0 || threads > 1024) return 1;
    const char* how = std::getenv("FAKE_DRIVER");
    if (how != nullptr) return std::strcmp(how, "fails") == 0 ? 719 : 0;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            reinterpret_cast<Entry>(function)(
                *static_cast<const rowwise::DeviceCall*>(arguments[0]),
                *static_cast<const long long*>(arguments[1]),
                *static_cast<const int*>(arguments[2]));
    return in_context();
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, std::size_t bytes, void*) {
    std::memcpy(reinterpret_cast<void*>(to), from, bytes);
    return in_context();
}
int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, std::size_t bytes, void*) {
    std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
    return in_context();
}
int cuStreamSynchronize(void*) { return in_context(); }
}
