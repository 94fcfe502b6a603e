// Chooses among the copies of the kernels at run time.
#include <cstring>

#include "kernels.hpp"

namespace rowwise {

namespace portable {
extern const Kernels entry_points;
}
#ifdef ROWWISE_X86
namespace avx2 {
extern const Kernels entry_points;
}
namespace avx512 {
extern const Kernels entry_points;
}
#endif

namespace {

// Best first.
const Kernels* const kCopies[] = {
#ifdef ROWWISE_X86
    &avx512::entry_points,
    &avx2::entry_points,
#endif
    &portable::entry_points,
};

bool runs_here([[maybe_unused]] const Kernels* copy) {
#ifdef ROWWISE_X86
    if (copy == &avx512::entry_points)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    if (copy == &avx2::entry_points) return __builtin_cpu_supports("avx2");
#endif
    return true;
}

const Kernels* best() {
    for (const Kernels* copy : kCopies)
        if (runs_here(copy)) return copy;
    return &portable::entry_points;
}

const Kernels* selected = best();

}  // namespace

const Kernels& kernels() { return *selected; }

bool select_kernels(const char* name) {
    for (const Kernels* copy : kCopies) {
        if (std::strcmp(copy->name, name) == 0 && runs_here(copy)) {
            selected = copy;
            return true;
        }
    }
    return false;
}

}  // namespace rowwise
