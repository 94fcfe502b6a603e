// Handlers of XLA's foreign function interface, where its header was there at build time.
#pragma once
#include <vector>

namespace rowwise {

// The handler of each of `ProgramTable::methods()`, in their order.
std::vector<void*> xla_handlers();

}  // namespace rowwise
