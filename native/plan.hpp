// The plan of a batch: its distinct ids, ascending, and where each of them stands.
#pragma once
#include <cstdint>
#include <vector>

namespace rowwise {

struct Plan {
    std::vector<int64_t> ids;         // (distinct,) ascending
    std::vector<uint32_t> start;      // (distinct + 1,) where each id's positions begin
    std::vector<uint32_t> positions;  // (n,) positions in the batch, ascending within an id

    int64_t distinct() const { return static_cast<int64_t>(ids.size()); }
};

// `ids` is (n,), each within 0..rows-1; n and rows are below 2^32.
Plan make_plan(const int64_t* ids, int64_t n, int64_t rows);

}  // namespace rowwise
