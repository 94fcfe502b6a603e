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

constexpr int64_t kRecordsPerTurn = 16;  // that a thread takes at once
constexpr std::size_t kAlignment = 4096;

struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
};
using Aligned = std::unique_ptr<std::byte, Free>;

// Moves `bytes` between the file and memory; the system may move fewer at once than asked for.
int move_bytes(int file, std::byte* memory, int64_t bytes, int64_t at, bool write) {
    while (bytes > 0) {
        const auto size = static_cast<std::size_t>(bytes);
        const ssize_t moved = write ? pwrite(file, memory, size, at) : pread(file, memory, size, at);
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
    const auto room = (static_cast<std::size_t>(stride) + kAlignment - 1) / kAlignment * kAlignment;
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    const auto move = [&](std::byte* record, int64_t row, int64_t frame) {
        std::byte* at = record;
        for (const RecordPart& part : parts) {
            if (write) std::memcpy(at, part.memory + part.bytes * frame, part.bytes);
            at += part.bytes;
        }
        if (const int error = move_bytes(file, record, stride, row * stride, write)) return error;
        at = record;
        for (const RecordPart& part : parts) {
            if (!write) std::memcpy(part.memory + part.bytes * frame, at, part.bytes);
            at += part.bytes;
        }
        return 0;
    };
    const auto work = [&] {
        const Aligned record(static_cast<std::byte*>(std::aligned_alloc(kAlignment, room)));
        if (record == nullptr) {
            failed = ENOMEM;
            return;
        }
        std::memset(record.get(), 0, room);
        while (failed == 0) {
            const int64_t begin = next.fetch_add(kRecordsPerTurn);
            if (begin >= n) return;
            for (int64_t i = begin; i < std::min(n, begin + kRecordsPerTurn); ++i)
                if (const int error = move(record.get(), rows[i], frames[i])) failed = error;
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
