#include "memory.hpp"

#include <bit>
#include <cstdlib>
#include <mutex>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#define ROWWISE_MMAP 1
#endif

namespace rowwise {

#ifdef ROWWISE_MMAP

namespace {
constexpr std::size_t kHugePage = std::size_t{1} << 21;
}

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
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
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

namespace {

struct Block {
    void* memory;
    std::size_t bytes;
};

constexpr std::size_t kSmall = std::size_t{1} << 14;     // below it malloc does the same
constexpr std::size_t kMostKept = std::size_t{1} << 28;  // bytes in all

// Never destroyed: arrays may outlive everything at the end of the process.
std::mutex& mutex() {
    static auto* mutex = new std::mutex;
    return *mutex;
}
std::vector<Block>& kept() {
    static auto* blocks = new std::vector<Block>;
    return *blocks;
}

// Batches differ a little in size, so that sizes are rounded up by an eighth at most.
std::size_t rounded(std::size_t bytes) {
    const std::size_t grain = std::bit_ceil(bytes) / 16;
    return (bytes + grain - 1) / grain * grain;
}

}  // namespace

void* borrow(std::size_t& bytes) {
    if (bytes < kSmall) return std::malloc(bytes | 1);
    bytes = rounded(bytes);
    // Not worth waiting for: another thread has it, or had it when this process was forked.
    if (const std::unique_lock lock(mutex(), std::try_to_lock); lock) {
        auto& blocks = kept();
        for (std::size_t i = blocks.size(); i-- > 0;) {
            if (blocks[i].bytes != bytes) continue;
            void* memory = blocks[i].memory;
            blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i));
            return memory;
        }
    }
    return allocate(bytes);
}

void give_back(void* memory, std::size_t bytes) {
    if (bytes < kSmall) return std::free(memory);
    Block oldest{memory, bytes};
    if (const std::unique_lock lock(mutex(), std::try_to_lock); lock && bytes <= kMostKept / 4) {
        auto& blocks = kept();
        blocks.push_back(oldest);
        std::size_t total = 0;
        for (const Block& block : blocks) total += block.bytes;
        if (total <= kMostKept) return;
        oldest = blocks.front();
        blocks.erase(blocks.begin());
    }
    release(oldest.memory, oldest.bytes);
}

}  // namespace rowwise
