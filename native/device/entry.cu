// The entry points of a module: every kernel for one family; those of rows read them 1 or 4 numbers
// at a time. Compiled at first use by NVRTC, with ROWWISE_RULE the family's class in rules.hpp.
#define ROWWISE_ISA device
#include "device/kernels.hpp"

#define ROWWISE_ENTRY(name, ...)                                                                \
    extern "C" __global__ void name(const rowwise::DeviceCall call, long long items, int shift) { \
        using namespace rowwise::device;                                                         \
        const long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;  \
        const long long item = thread >> shift;                                                  \
        const int lanes = 1 << shift;                                                            \
        if (item >= items) return;                                                               \
        __VA_ARGS__::run(call, item, static_cast<int>(thread & (lanes - 1)), lanes);             \
    }
#define ROWWISE_ROW_ENTRIES(name, Kernel)              \
    ROWWISE_ENTRY(name##_1, Kernel<ROWWISE_RULE, 1>) \
    ROWWISE_ENTRY(name##_4, Kernel<ROWWISE_RULE, 4>)
#define ROWWISE_OTHER_ENTRY(name, Kernel) ROWWISE_ENTRY(name, Kernel<ROWWISE_RULE>)
ROWWISE_ROW_KERNELS(ROWWISE_ROW_ENTRIES)
ROWWISE_OTHER_KERNELS(ROWWISE_OTHER_ENTRY)
