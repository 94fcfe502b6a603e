#include "plan.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <numeric>
#include <utility>

namespace rowwise {

namespace {

constexpr int kDigitBits = 11;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;

// Sorts keys by their upper half, the id. The lower half, the position, is ascending at the start
// and every pass is stable, so that duplicates stay in the order of the batch. (Two threads gain
// nothing: at a batch's size, handing over costs what they save.)
void radix_sort(Buffer<uint64_t>& keys, int id_bits) {
    Buffer<uint64_t> other(keys.size);
    for (int shift = 32; shift < 32 + id_bits; shift += kDigitBits) {
        std::array<uint32_t, kDigits> place{};
        for (const uint64_t key : keys) ++place[(key >> shift) & (kDigits - 1)];
        uint32_t sum = 0;
        for (uint32_t& count : place) sum += std::exchange(count, sum);
        for (const uint64_t key : keys) other[place[(key >> shift) & (kDigits - 1)]++] = key;
        keys.swap(other);
    }
}

Plan room_for(int64_t n) {
    return {Buffer<int64_t>(n), Buffer<uint32_t>(n + 1), Buffer<uint32_t>(n), {}};
}

}  // namespace

Plan make_plan(const int64_t* ids, int64_t n, int64_t rows) {
    Plan plan = room_for(n);
    if (std::adjacent_find(ids, ids + n, std::greater_equal<>()) == ids + n) {
        std::copy(ids, ids + n, plan.ids.begin());  // distinct and ascending already
        std::iota(plan.start.begin(), plan.start.end(), 0);
        std::iota(plan.sources.begin(), plan.sources.end(), 0);
        return plan;
    }
    Buffer<uint64_t> keys(n);
    for (int64_t i = 0; i < n; ++i) keys[i] = static_cast<uint64_t>(ids[i]) << 32 | uint64_t(i);

    constexpr int64_t kSmall = 512;  // below it the digits' counters cost more than comparing
    if (n <= kSmall)
        std::sort(keys.begin(), keys.end());
    else
        radix_sort(keys, std::bit_width(static_cast<uint64_t>(rows - 1)));

    int64_t distinct = 0, last = -1;
    for (int64_t i = 0; i < n; ++i) {
        const auto id = static_cast<int64_t>(keys[i] >> 32);
        plan.ids[distinct] = id;  // overwritten by the next, where it is the one before
        plan.start[distinct] = static_cast<uint32_t>(i);
        if (id != last) ++distinct;
        last = id;
        plan.sources[i] = static_cast<uint32_t>(keys[i]);
    }
    plan.start[distinct] = static_cast<uint32_t>(n);
    plan.ids.size = distinct;
    plan.start.size = distinct + 1;
    return plan;
}

Plan make_plan(const Bags& bags, int64_t rows) {
    Plan plan = make_plan(bags.ids, bags.n, rows);
    const Buffer<uint32_t> bag_of = bag_of_each(bags);
    if (bags.weights != nullptr) {
        plan.weights = Buffer<float>(bags.n);
        for (int64_t p = 0; p < bags.n; ++p) plan.weights[p] = bags.weights[plan.sources[p]];
    }
    for (uint32_t& source : plan.sources) source = bag_of[source];
    return plan;
}

Buffer<uint32_t> bag_of_each(const Bags& bags) {
    Buffer<uint32_t> bag_of(bags.n);
    for (int64_t b = 0; b < bags.count; ++b)
        std::fill(bag_of.begin() + bags.offsets[b], bag_of.begin() + bags.offsets[b + 1],
                  static_cast<uint32_t>(b));
    return bag_of;
}

}  // namespace rowwise
