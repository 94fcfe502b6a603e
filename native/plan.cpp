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

uint64_t key_of(const Buffer<int64_t>& ids, int64_t i) {
    return static_cast<uint64_t>(ids[i]) << 32 | static_cast<uint64_t>(i);
}

// Returns the keys of ids, sorted by their upper half, the id, in digits of so many bits. The lower
// half, the position, is ascending at the start and every pass is stable, so that duplicates stay
// in the order of the batch. (Two threads gain nothing: at a batch's size, handing over costs what
// they save.)
template <int Bits, int Passes>
Buffer<uint64_t> radix_sorted(const Buffer<int64_t>& ids) {
    constexpr std::size_t kDigits = std::size_t{1} << Bits;
    const auto digit = [](uint64_t key, int pass) {
        return (key >> (32 + pass * Bits)) & (kDigits - 1);
    };
    const int64_t n = ids.size;
    // The keys are written where the second pass will: memory that random writes find in the cache.
    Buffer<uint64_t> keys(n), other(n);
    std::array<std::array<uint32_t, kDigits>, Passes> places{};
    for (int64_t i = 0; i < n; ++i) {
        const uint64_t key = keys[i] = key_of(ids, i);
        for (int pass = 0; pass < Passes; ++pass) ++places[pass][digit(key, pass)];
    }
    for (int pass = 0; pass < Passes; ++pass) {
        auto& place = places[pass];
        uint32_t sum = 0;
        for (uint32_t& count : place) sum += std::exchange(count, sum);
        const uint64_t* from = keys.data();
        uint64_t* to = other.data();
        for (int64_t i = 0; i < n; ++i) to[place[digit(from[i], pass)]++] = from[i];
        keys.swap(other);
    }
    return keys;
}

template <int Bits>
Buffer<uint64_t> radix_sorted(const Buffer<int64_t>& ids, int id_bits) {
    if (id_bits <= Bits) return radix_sorted<Bits, 1>(ids);
    if (id_bits <= 2 * Bits) return radix_sorted<Bits, 2>(ids);
    if (id_bits <= 3 * Bits) return radix_sorted<Bits, 3>(ids);
    return radix_sorted<Bits, 4>(ids);
}

Buffer<uint64_t> sorted_keys(const Buffer<int64_t>& ids, int64_t rows) {
    constexpr int64_t kFew = 24, kMany = 1024;  // measured: benchmarks/small.py
    const int id_bits = std::bit_width(static_cast<uint64_t>(rows - 1));
    if (ids.size > kMany) return radix_sorted<11>(ids, id_bits);
    if (ids.size > kFew) return radix_sorted<8>(ids, id_bits);
    Buffer<uint64_t> keys(ids.size);
    for (int64_t i = 0; i < ids.size; ++i) keys[i] = key_of(ids, i);
    std::sort(keys.begin(), keys.end());
    return keys;
}

// Returns the plan by a counter for each row: of few rows, or many ids.
Plan counted_plan(const Buffer<int64_t>& ids, int64_t rows) {
    const int64_t n = ids.size;
    Plan plan{
        Buffer<int64_t>(std::min(n, rows) + 1), Buffer<uint32_t>(n + 1), Buffer<uint32_t>(n), {}};
    Buffer<uint32_t> places(rows);
    std::fill(places.begin(), places.end(), 0);
    // Pointers of their own: the compiler cannot know that writing one leaves the others alone.
    uint32_t *place = places.data(), *start = plan.start.data(), *sources = plan.sources.data();
    int64_t* id_of = plan.ids.data();
    for (int64_t i = 0; i < n; ++i) ++place[ids[i]];
    int64_t distinct = 0;
    uint32_t sum = 0;
    for (int64_t row = 0; row < rows; ++row) {
        const uint32_t count = std::exchange(place[row], sum);
        id_of[distinct] = row;  // overwritten by the next, where the row has no ids
        start[distinct] = sum;
        distinct += count != 0;
        sum += count;
    }
    for (int64_t i = 0; i < n; ++i) sources[place[ids[i]]++] = static_cast<uint32_t>(i);
    start[distinct] = sum;
    plan.ids.size = distinct;
    plan.start.size = distinct + 1;
    return plan;
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
    constexpr int64_t kFewRows = 2;  // rows an id; measured: benchmarks/small.py
    const bool ascending =
        std::adjacent_find(ids.begin(), ids.end(), std::greater_equal<>()) == ids.end();
    if (!ascending && rows <= kFewRows * n) return counted_plan(ids, rows);
    Plan plan{std::move(ids), Buffer<uint32_t>(n + 1), Buffer<uint32_t>(n), {}};
    if (ascending) {  // and distinct
        std::iota(plan.start.begin(), plan.start.end(), 0);
        std::iota(plan.sources.begin(), plan.sources.end(), 0);
        return plan;
    }
    const Buffer<uint64_t> keys = sorted_keys(plan.ids, rows);

    // Pointers of their own: the compiler cannot know that writing ids leaves the plan's alone.
    const uint64_t* key = keys.data();
    int64_t* id_of = plan.ids.data();
    uint32_t *start = plan.start.data(), *sources = plan.sources.data();
    int64_t distinct = 0, last = -1;
    for (int64_t i = 0; i < n; ++i) {
        const auto id = static_cast<int64_t>(key[i] >> 32);
        id_of[distinct] = id;  // overwritten by the next, where it is the one before
        start[distinct] = static_cast<uint32_t>(i);
        distinct += id != last;
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
