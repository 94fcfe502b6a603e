#include "finite.hpp"

#include <atomic>
#include <cmath>

#include "threads.hpp"

namespace rowwise {

int64_t first_nonfinite(std::span<const float> values) {
    const float* v = values.data();
    const auto n = static_cast<int64_t>(values.size());
    std::atomic<int64_t> first{n};
    parallel(n, 1 << 16, [&](int64_t begin, int64_t end) {
        // x - x is 0 for every finite x, and NaN otherwise.
        bool clean = true;
        for (int64_t i = begin; i < end; ++i) clean &= (v[i] - v[i] == 0.0f);
        if (clean) return;
        for (int64_t i = begin; i < end; ++i) {
            if (std::isfinite(v[i])) continue;
            int64_t seen = first;
            while (i < seen && !first.compare_exchange_weak(seen, i)) {
            }
            return;
        }
    });
    return first == n ? -1 : first.load();
}

}  // namespace rowwise
