#include "plan.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <numeric>

namespace rowwise {

namespace {

constexpr int kDigitBits = 11;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;

// Sorts keys by their upper half, the id. The lower half, the position, is ascending at the start
// and every pass is stable, so that duplicates stay in the order of the batch.
void radix_sort(std::vector<uint64_t>& keys, int id_bits) {
    std::vector<uint64_t> other(keys.size());
    for (int shift = 32; shift < 32 + id_bits; shift += kDigitBits) {
        std::array<uint32_t, kDigits> place{};
        for (const uint64_t key : keys) ++place[(key >> shift) & (kDigits - 1)];
        uint32_t sum = 0;
        for (auto& slot : place) {
            const uint32_t count = slot;
            slot = sum;
            sum += count;
        }
        for (const uint64_t key : keys) other[place[(key >> shift) & (kDigits - 1)]++] = key;
        keys.swap(other);
    }
}

}  // namespace

Plan make_plan(const int64_t* ids, int64_t n, int64_t rows) {
    if (std::adjacent_find(ids, ids + n, std::greater_equal<>()) == ids + n) {
        Plan plan;  // distinct and ascending already
        plan.ids.assign(ids, ids + n);
        plan.start.resize(n + 1);
        plan.positions.resize(n);
        std::iota(plan.start.begin(), plan.start.end(), 0);
        std::iota(plan.positions.begin(), plan.positions.end(), 0);
        return plan;
    }
    std::vector<uint64_t> keys(n);
    for (int64_t i = 0; i < n; ++i) keys[i] = static_cast<uint64_t>(ids[i]) << 32 | uint64_t(i);

    constexpr int64_t kSmall = 512;  // below it the digits' counters cost more than comparing
    if (n <= kSmall)
        std::sort(keys.begin(), keys.end());
    else
        radix_sort(keys, std::bit_width(static_cast<uint64_t>(rows - 1)));

    Plan plan;
    plan.positions.resize(n);
    plan.ids.reserve(n);
    plan.start.reserve(n + 1);
    for (int64_t i = 0; i < n; ++i) {
        const auto id = static_cast<int64_t>(keys[i] >> 32);
        if (plan.ids.empty() || plan.ids.back() != id) {
            plan.ids.push_back(id);
            plan.start.push_back(static_cast<uint32_t>(i));
        }
        plan.positions[i] = static_cast<uint32_t>(keys[i]);
    }
    plan.start.push_back(static_cast<uint32_t>(n));
    return plan;
}

}  // namespace rowwise
