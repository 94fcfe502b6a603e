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
constexpr std::size_t kAlignment = 4096;

struct Free {
    void operator()(std::byte* memory) const {
        ::operator delete(memory, std::align_val_t{kAlignment});
    }
};
using Aligned = std::unique_ptr<std::byte, Free>;

Aligned aligned(std::size_t bytes) {
    void* memory = ::operator new(bytes, std::align_val_t{kAlignment}, std::nothrow);
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

}  // namespace

int move_records(int file, std::span<const RecordPart> parts, int64_t stride,
                 std::span<const int64_t> rows, std::span<const int64_t> frames, int depth,
                 bool write) {
    const auto n = static_cast<int64_t>(rows.size());
    const auto room = (static_cast<std::size_t>(stride * kRecordsPerTurn) + kAlignment - 1) /
                      kAlignment * kAlignment;
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    // Records that lie side by side in the file: rows[begin] and those after it.
    const auto move = [&](std::byte* records, int64_t begin, int64_t count) {
        const auto each_part = [&](auto&& copy) {
            for (int64_t i = 0; i < count; ++i) {
                std::byte* at = records + i * stride;
                for (const RecordPart& part : parts) {
                    copy(at, part.memory + part.bytes * frames[begin + i], part.bytes);
                    at += part.bytes;
                }
            }
        };
        if (write)
            each_part([](std::byte* at, const std::byte* of, int64_t bytes) {
                std::memcpy(at, of, static_cast<std::size_t>(bytes));
            });
        const int64_t at = rows[begin] * stride;
        if (const int error = move_bytes(file, records, count * stride, at, write)) return error;
        if (!write)
            each_part([](const std::byte* at, std::byte* of, int64_t bytes) {
                std::memcpy(of, at, static_cast<std::size_t>(bytes));
            });
        return 0;
    };
    const auto work = [&] {
        const Aligned records = aligned(room);
        if (records == nullptr) {
            failed = ENOMEM;
            return;
        }
        std::memset(records.get(), 0, room);
        while (failed == 0) {
            const int64_t first = next.fetch_add(kRecordsPerTurn);
            if (first >= n) return;
            const int64_t last = std::min(n, first + kRecordsPerTurn);
            for (int64_t begin = first, end; begin < last; begin = end) {
                for (end = begin + 1; end < last && rows[end] == rows[end - 1] + 1;) ++end;
                if (const int error = move(records.get(), begin, end - begin)) failed = error;
            }
        }
    };
    const int64_t useful = (n + kRecordsPerTurn - 1) / kRecordsPerTurn;
    std::vector<std::thread> others;
    try {
        for (int64_t t = 1; t < std::min<int64_t>(depth, useful); ++t) others.emplace_back(work);
    } catch (const std::system_error&) {
        // fewer do the work
    }
    work();
    for (std::thread& other : others) other.join();
    return failed;
}

}  // namespace rowwise
