#include "disk.hpp"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>
#include <vector>

namespace rowwise {

namespace {

constexpr int64_t kRecordsPerTurn = 16;  // that a thread takes at once
constexpr std::size_t kMostParts = 8;

// One record; the system may move fewer bytes than asked for.
int move_record(int file, std::span<const RecordPart> parts, int64_t record, int64_t row,
                int64_t frame, bool write) {
    iovec pieces[kMostParts];
    for (std::size_t p = 0; p < parts.size(); ++p)
        pieces[p] = {parts[p].memory + parts[p].bytes * frame,
                     static_cast<std::size_t>(parts[p].bytes)};
    iovec* first = pieces;
    auto count = static_cast<int>(parts.size());
    off_t at = row * record;
    while (count > 0) {
        const ssize_t moved = write ? pwritev(file, first, count, at) : preadv(file, first, count, at);
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return moved < 0 ? errno : EIO;
        at += moved;
        auto left = static_cast<std::size_t>(moved);
        while (count > 0 && left >= first->iov_len) {
            left -= first->iov_len;
            ++first;
            --count;
        }
        if (count > 0) {
            first->iov_base = static_cast<char*>(first->iov_base) + left;
            first->iov_len -= left;
        }
    }
    return 0;
}

}  // namespace

int move_records(int file, std::span<const RecordPart> parts, std::span<const int64_t> rows,
                 std::span<const int64_t> frames, int depth, bool write) {
    if (parts.size() > kMostParts) return EINVAL;
    int64_t record = 0;
    for (const RecordPart& part : parts) record += part.bytes;
    const auto n = static_cast<int64_t>(rows.size());
    std::atomic<int64_t> next{0};
    std::atomic<int> failed{0};
    const auto work = [&] {
        for (;;) {
            const int64_t begin = next.fetch_add(kRecordsPerTurn);
            if (begin >= n || failed != 0) return;
            for (int64_t i = begin; i < std::min(n, begin + kRecordsPerTurn); ++i)
                if (const int error = move_record(file, parts, record, rows[i], frames[i], write))
                    failed = error;
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
