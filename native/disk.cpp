#include "disk.hpp"

#ifdef _WIN32
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <io.h>
#include <windows.h>
#else
#include <unistd.h>
#endif

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace rowwise {

namespace {

constexpr int64_t kRecordsPerTurn = 16;  // that a thread takes, and moves at once where it can
constexpr int64_t kAlignment = 4096;

struct Free {
    void operator()(std::byte* memory) const {
        ::operator delete(memory, std::align_val_t{static_cast<std::size_t>(kAlignment)});
    }
};
using Aligned = std::unique_ptr<std::byte, Free>;

Aligned aligned(std::size_t bytes) {
    const std::align_val_t alignment{static_cast<std::size_t>(kAlignment)};
    void* memory = ::operator new(bytes, alignment, std::nothrow);
    return Aligned(static_cast<std::byte*>(memory));
}

// Moves at most `bytes` between the file and memory. Returns how many, 0 at the file's end, or -1
// with errno.
int64_t move_some(int file, std::byte* memory, int64_t bytes, int64_t at, bool write) {
#ifdef _WIN32
    const auto handle = reinterpret_cast<HANDLE>(_get_osfhandle(file));
    const auto size = static_cast<DWORD>(std::min(bytes, int64_t{1} << 30));
    OVERLAPPED where{};
    where.Offset = static_cast<DWORD>(at);
    where.OffsetHigh = static_cast<DWORD>(at >> 32);
    DWORD moved = 0;
    if (write ? WriteFile(handle, memory, size, &moved, &where)
              : ReadFile(handle, memory, size, &moved, &where))
        return moved;
    const DWORD error = GetLastError();
    if (error == ERROR_HANDLE_EOF) return 0;
    errno = error == ERROR_DISK_FULL ? ENOSPC : EIO;
    return -1;
#else
    const auto size = static_cast<std::size_t>(bytes);
    return write ? pwrite(file, memory, size, at) : pread(file, memory, size, at);
#endif
}

// Moves `bytes` between the file and memory; the system may move fewer at once than asked for.
int move_bytes(int file, std::byte* memory, int64_t bytes, int64_t at, bool write) {
    while (bytes > 0) {
        const int64_t moved = move_some(file, memory, bytes, at, write);
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return moved < 0 ? errno : EIO;
        memory += moved;
        at += moved;
        bytes -= moved;
    }
    return 0;
}

int64_t rounded_up(int64_t bytes, int64_t block) { return (bytes + block - 1) / block * block; }

// Calls work() on up to `depth` threads at once, of which this is one.
template <class Work>
void share(int64_t depth, const Work& work) {
    std::vector<std::thread> others;
    try {
        for (int64_t t = 1; t < depth; ++t) others.emplace_back(work);
    } catch (const std::system_error&) {
        // fewer do the work
    }
    work();
    for (std::thread& other : others) other.join();
}

template <class Copy>
void each_part(std::span<const RecordPart> parts, int64_t frame, const Copy& copy) {
    int64_t at = 0;
    for (const RecordPart& part : parts) {
        copy(part.memory + part.bytes * frame, at, static_cast<std::size_t>(part.bytes));
        at += part.bytes;
    }
}

void put(std::byte* home, const std::byte* source, const Moves& moves, int64_t stride) {
    for (std::size_t i = 0; i < moves.slots.size(); ++i)
        std::memcpy(home + moves.slots[i] * stride, source + moves.from[i],
                    static_cast<std::size_t>(stride));
}

}  // namespace

int read_records(const RecordFile& file, std::span<const RecordPart> parts,
                 std::span<const int64_t> at, std::span<const int64_t> frames, int depth) {
    const auto n = static_cast<int64_t>(at.size());
    const int64_t room = rounded_up(file.stride * kRecordsPerTurn, kAlignment) + 2 * kAlignment;
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    // Records that lie side by side in the file: at[begin] and those after it.
    const auto read = [&](std::byte* buffer, int64_t begin, int64_t count) {
        const int64_t first = at[begin] / file.block * file.block;
        const int64_t last = rounded_up(at[begin] + count * file.stride, file.block);
        if (const int error = move_bytes(file.file, buffer, last - first, first, false))
            return error;
        for (int64_t i = begin; i < begin + count; ++i)
            each_part(parts, frames[i], [&](std::byte* to, int64_t part, std::size_t bytes) {
                std::memcpy(to, buffer + (at[i] - first) + part, bytes);
            });
        return 0;
    };
    share(std::min<int64_t>(depth, (n + kRecordsPerTurn - 1) / kRecordsPerTurn), [&] {
        const Aligned buffer = aligned(static_cast<std::size_t>(room));
        if (buffer == nullptr) {
            failed = ENOMEM;
            return;
        }
        while (failed == 0) {
            const int64_t first = next.fetch_add(kRecordsPerTurn);
            if (first >= n) return;
            const int64_t last = std::min(n, first + kRecordsPerTurn);
            for (int64_t begin = first, end; begin < last; begin = end) {
                for (end = begin + 1; end < last && at[end] == at[end - 1] + file.stride;) ++end;
                if (const int error = read(buffer.get(), begin, end - begin)) failed = error;
            }
        }
    });
    return failed;
}

void pack_records(std::span<const RecordPart> parts, std::span<const int64_t> frames,
                  std::span<const int64_t> to, std::byte* out) {
    for (std::size_t i = 0; i < frames.size(); ++i)
        each_part(parts, frames[i], [&](const std::byte* of, int64_t part, std::size_t bytes) {
            std::memcpy(out + to[i] + part, of, bytes);
        });
}

int write_pieces(const RecordFile& file, std::byte* memory, std::span<const int64_t> from,
                 std::span<const int64_t> bytes, std::span<const int64_t> at, int depth) {
    const auto n = static_cast<int64_t>(at.size());
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    share(std::min<int64_t>(depth, n), [&] {
        for (int64_t i; failed == 0 && (i = next.fetch_add(1)) < n;)
            if (const int error = move_bytes(file.file, memory + from[i], bytes[i], at[i], true))
                failed = error;
    });
    return failed;
}

int merge_records(const RecordFile& file, Stretch home, Stretch log, const Moves& logged,
                  const std::byte* packed, const Moves& newest) {
    const Aligned records = aligned(static_cast<std::size_t>(home.size));
    const Aligned newer = aligned(static_cast<std::size_t>(std::max<int64_t>(log.size, 1)));
    if (records == nullptr || newer == nullptr) return ENOMEM;
    const int64_t rest = home.size - static_cast<int64_t>(newest.slots.size()) * file.stride;
    if (rest < file.stride) {  // nothing stays of what was there
        std::memset(records.get() + home.size - rest, 0, static_cast<std::size_t>(rest));
    } else {
        if (const int error = move_bytes(file.file, records.get(), home.size, home.at, false))
            return error;
        if (const int error = move_bytes(file.file, newer.get(), log.size, log.at, false))
            return error;
        put(records.get(), newer.get(), logged, file.stride);
    }
    put(records.get(), packed, newest, file.stride);
    return move_bytes(file.file, records.get(), home.size, home.at, true);
}

}  // namespace rowwise
