#include "random.hpp"

#include <algorithm>

#include "threads.hpp"

namespace rowwise {

namespace {

constexpr int64_t kNumbersPerTask = 1 << 14;

template <class Number>
void fill(float* weights, int64_t rows, int64_t dim, int64_t first_id, const int64_t* ids,
          uint64_t seed, Number&& number) {
    const int64_t grain = std::max<int64_t>(1, kNumbersPerTask / std::max<int64_t>(1, dim));
    parallel(rows, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const auto id = static_cast<uint64_t>(ids != nullptr ? ids[i] : first_id + i);
            float* row = weights + i * dim;
            for (int64_t d = 0; d < dim; d += 4) {
                const Random4 random = philox(seed, id, static_cast<uint64_t>(d / 4));
                const int64_t count = std::min<int64_t>(4, dim - d);
                for (int64_t j = 0; j < count; ++j) row[d + j] = number(random.word[j]);
            }
        }
    });
}

}  // namespace

void fill_uniform(float* weights, int64_t rows, int64_t dim, int64_t first_id, const int64_t* ids,
                  uint64_t seed, float low, float high) {
    const float width = high - low;
    fill(weights, rows, dim, first_id, ids, seed,
         [=](uint32_t bits) { return low + width * uniform(bits); });
}

void fill_normal(float* weights, int64_t rows, int64_t dim, int64_t first_id, const int64_t* ids,
                 uint64_t seed, float mean, float deviation) {
    fill(weights, rows, dim, first_id, ids, seed,
         [=](uint32_t bits) { return mean + deviation * normal(bits); });
}

}  // namespace rowwise
