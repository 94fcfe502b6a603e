// The plan of a batch: its distinct ids, ascending, and where each finds its gradients.
#pragma once
#include <cstdint>

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

// A batch of bags: bag b holds the ids from offsets[b] to offsets[b + 1].
struct Bags {
    const int64_t* ids;      // (n,)
    const int64_t* offsets;  // (count + 1,) ascending, from 0 to n
    const float* weights;    // (n,), or null: all are 1
    int64_t n, count;
};

// For a gradient per id: sources are positions in the batch. `ids` is (n,), each within 0..rows-1;
// n and rows are below 2^32.
Plan make_plan(const int64_t* ids, int64_t n, int64_t rows);

// For a gradient per bag: sources are bags, of which there are fewer than 2^32.
Plan make_plan(const Bags& bags, int64_t rows);

// (n,) the bag of each position.
Buffer<uint32_t> bag_of_each(const Bags& bags);

}  // namespace rowwise
