#include "memory.hpp"

#include <cstdlib>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#define ROWWISE_MMAP 1
#endif

namespace rowwise {

namespace {
constexpr std::size_t kHugePage = std::size_t{1} << 21;
}

#ifdef ROWWISE_MMAP

// A mapping is only aligned to a small page, so that one huge page more is mapped and the unaligned
// head and tail are given back: every full huge page of the buffer can then be one.
void* allocate(std::size_t bytes) {
    const bool huge = bytes >= kHugePage;
    const std::size_t mapped = bytes + (huge ? kHugePage : 0);
    void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return nullptr;
    if (!huge) return base;

    auto first = reinterpret_cast<std::size_t>(base);
    const std::size_t aligned = (first + kHugePage - 1) & ~(kHugePage - 1);
    const std::size_t page = 4096;
    const std::size_t end = (aligned + bytes + page - 1) & ~(page - 1);
    if (aligned > first) munmap(base, aligned - first);
    if (first + mapped > end) munmap(reinterpret_cast<void*>(end), first + mapped - end);
#ifdef MADV_HUGEPAGE
    madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
#endif
    return reinterpret_cast<void*>(aligned);
}

void release(void* memory, std::size_t bytes) { munmap(memory, bytes); }

#else

void* allocate(std::size_t bytes) { return std::calloc(bytes, 1); }
void release(void* memory, std::size_t) { std::free(memory); }

#endif

}  // namespace rowwise
