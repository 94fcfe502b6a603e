#pragma once
#include <cstdint>
#include <span>

namespace rowwise {

// Position of the first value that is not finite, or -1.
int64_t first_nonfinite(std::span<const float> values);

}  // namespace rowwise
