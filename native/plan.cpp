#include "plan.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace rowwise {

namespace {

constexpr int kDigitBits = 11;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;

// Sorts keys by their upper half, the id. The lower half, the position, is ascending at the start
// and every pass is stable, so that duplicates stay in the order of the batch. (Two threads gain
// nothing: at a batch's size, handing over costs what they save.)
void radix_sort(Buffer<uint64_t>& keys, int id_bits) {
    const int64_t n = keys.size;
    Buffer<uint64_t> other(n);
    for (int shift = 32; shift < 32 + id_bits; shift += kDigitBits) {
        std::array<uint32_t, kDigits> place{};
        const uint64_t* from = keys.data();
        uint64_t* to = other.data();
#pragma GCC unroll 4
        for (int64_t i = 0; i < n; ++i) ++place[(from[i] >> shift) & (kDigits - 1)];
        uint32_t sum = 0;
        for (uint32_t& count : place) sum += std::exchange(count, sum);
#pragma GCC unroll 4
        for (int64_t i = 0; i < n; ++i) to[place[(from[i] >> shift) & (kDigits - 1)]++] = from[i];
        keys.swap(other);
    }
}

Buffer<int64_t> copy_of(std::span<const int64_t> values) {
    Buffer<int64_t> copy(static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), copy.begin());
    return copy;
}

}  // namespace

CheckedIds::CheckedIds(std::span<const int64_t> given, int64_t rows)
    : ids(static_cast<int64_t>(given.size())) {
    constexpr int64_t kAtOnce = 128;  // in the first-level cache between the copy and the check
    // The sign bit of id is set where it is below 0, that of last - id where it is above the last.
    const auto last = static_cast<uint64_t>(rows - 1);
    uint64_t bits = 0;
    for (int64_t begin = 0; begin < ids.size; begin += kAtOnce) {
        const int64_t end = std::min(begin + kAtOnce, ids.size);
        std::copy(given.data() + begin, given.data() + end, ids.data() + begin);
        for (int64_t i = begin; i < end; ++i) {
            const auto id = static_cast<uint64_t>(ids[i]);
            bits |= id | (last - id);
        }
    }
    if (bits >> 63 == 0) return;
    for (bad = 0; static_cast<uint64_t>(ids[bad]) <= last;) ++bad;
}

Buffer<int64_t> checked_offsets(std::span<const int64_t> offsets, int64_t n) {
    Buffer<int64_t> at = copy_of(offsets);
    const int64_t count = at.size - 1;
    if (count < 0 || at[0] != 0) throw std::invalid_argument("offsets must begin with 0");
    for (int64_t b = 0; b < count; ++b)
        if (at[b + 1] < at[b])
            throw std::invalid_argument("offset " + std::to_string(at[b + 1]) + " at position " +
                                        std::to_string(b + 1) + " is below the one before it, " +
                                        std::to_string(at[b]));
    if (at[count] != n)
        throw std::invalid_argument("the last offset, " + std::to_string(at[count]) +
                                    ", must be the number of ids, " + std::to_string(n));
    return at;
}

Plan make_plan(Buffer<int64_t> ids, int64_t rows) {
    const int64_t n = ids.size;
    Plan plan{std::move(ids), Buffer<uint32_t>(n + 1), Buffer<uint32_t>(n), {}};
    if (std::adjacent_find(plan.ids.begin(), plan.ids.end(), std::greater_equal<>()) ==
        plan.ids.end()) {  // distinct and ascending already
        std::iota(plan.start.begin(), plan.start.end(), 0);
        std::iota(plan.sources.begin(), plan.sources.end(), 0);
        return plan;
    }
    Buffer<uint64_t> keys(n);
    for (int64_t i = 0; i < n; ++i)
        keys[i] = static_cast<uint64_t>(plan.ids[i]) << 32 | uint64_t(i);

    constexpr int64_t kSmall = 512;  // below it the digits' counters cost more than comparing
    if (n <= kSmall)
        std::sort(keys.begin(), keys.end());
    else
        radix_sort(keys, std::bit_width(static_cast<uint64_t>(rows - 1)));

    // Pointers of their own: the compiler cannot know that writing ids leaves the plan's alone.
    const uint64_t* key = keys.data();
    int64_t* id_of = plan.ids.data();
    uint32_t *start = plan.start.data(), *sources = plan.sources.data();
    int64_t distinct = 0, last = -1;
    for (int64_t i = 0; i < n; ++i) {
        const auto id = static_cast<int64_t>(key[i] >> 32);
        id_of[distinct] = id;  // overwritten by the next, where it is the one before
        start[distinct] = static_cast<uint32_t>(i);
        if (id != last) ++distinct;
        last = id;
        sources[i] = static_cast<uint32_t>(key[i]);
    }
    plan.start[distinct] = static_cast<uint32_t>(n);
    plan.ids.size = distinct;
    plan.start.size = distinct + 1;
    return plan;
}

Plan make_plan(Buffer<int64_t> ids, const Bags& bags, int64_t rows) {
    Plan plan = make_plan(std::move(ids), rows);
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
