// The plan of a batch: its distinct ids, ascending, and where each finds its gradients.
//
// A batch's ids and offsets may lie in memory that another thread changes meanwhile. So they are
// copied first, and what is checked and used is the copy.
#pragma once
#include <cstdint>
#include <span>

#include "memory.hpp"

namespace rowwise {

struct Plan {
    Buffer<int64_t> ids;       // (distinct,) ascending
    Buffer<uint32_t> start;    // (distinct + 1,) where each id's sources begin
    Buffer<uint32_t> sources;  // (n,) which gradients of the batch it gets, in the batch's order
    Buffer<float> weights;     // (n,) times what, or empty: all are 1

    int64_t distinct() const { return ids.size; }
    int64_t entries() const { return sources.size; }
};

// A batch of bags as the kernels read it: bag b holds the ids from offsets[b] to offsets[b + 1].
struct Bags {
    const int64_t* ids;      // (n,)
    const int64_t* offsets;  // (count + 1,) ascending, from 0 to n
    const float* weights;    // (n,), or null: all are 1
    int64_t n, count;
};

// A copy of ids, with the position of the first outside 0..rows-1, or -1.
struct CheckedIds {
    Buffer<int64_t> ids;
    int64_t bad = -1;

    CheckedIds(std::span<const int64_t> given, int64_t rows);
};

// A copy of offsets. Throws std::invalid_argument unless they ascend from 0 to n.
Buffer<int64_t> checked_offsets(std::span<const int64_t> offsets, int64_t n);

// For a gradient per id: sources are positions in the batch. Takes the ids, each within 0..rows-1;
// their number and rows are below 2^32.
Plan make_plan(Buffer<int64_t> ids, int64_t rows);

// For a gradient per bag: sources are bags, of which there are fewer than 2^32. Takes the ids of
// the bags.
Plan make_plan(Buffer<int64_t> ids, const Bags& bags, int64_t rows);

// (n,) the bag of each position.
Buffer<uint32_t> bag_of_each(const Bags& bags);

}  // namespace rowwise
