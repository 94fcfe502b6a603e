// Memory on huge pages where the system grants them: zeroed for tables, used again for batches.
#pragma once
#include <cstddef>

namespace rowwise {

// `bytes` of zeroed memory, or nullptr. Random rows of a large table miss the TLB at nearly every
// access with 4 KiB pages; asking for 2 MiB ones halves the time of a step.
void* allocate(std::size_t bytes);
void release(void* memory, std::size_t bytes);

// Memory for one batch's vectors or gradients, not zeroed, or nullptr. `bytes` becomes what it
// holds. Given back, it is kept for the next batch: fresh pages cost more than what a step does
// with them.
void* borrow(std::size_t& bytes);
void give_back(void* memory, std::size_t bytes);

}  // namespace rowwise
