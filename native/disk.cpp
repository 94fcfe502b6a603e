#include "disk.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

namespace rowwise {

namespace {

constexpr int64_t kRecordsPerTurn = 16;  // that a thread takes, and moves at once where it can
constexpr std::size_t kAlignment = 4096;

struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
};
using Aligned = std::unique_ptr<std::byte, Free>;

// Moves `bytes` between the file and memory; the system may move fewer at once than asked for.
int move_bytes(int file, std::byte* memory, int64_t bytes, int64_t at, bool write) {
    while (bytes > 0) {
        const auto size = static_cast<std::size_t>(bytes);
        const ssize_t moved =
            write ? pwrite(file, memory, size, at) : pread(file, memory, size, at);
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
        const Aligned records(static_cast<std::byte*>(std::aligned_alloc(kAlignment, room)));
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
