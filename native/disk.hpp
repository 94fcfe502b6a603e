// Rows on a disk: one record a row, in which its weights, slots and state lie side by side, moved
// between a file and arrays in memory with many requests under way at once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace rowwise {

// A part of every record, and the array in memory that holds it for some rows: `bytes` at
// memory + bytes * frame.
struct RecordPart {
    std::byte* memory;
    int64_t bytes;
};

// Reads the records of rows[i] into frames frames[i] of the parts, or writes them from there. A
// record takes `stride` bytes of the file, of which those beyond the parts are zeros. `depth`
// requests are under way at once, each from a buffer that begins at a multiple of 4096, as a file
// that bypasses the system's cache asks for. Returns 0, or the errno of a request that failed;
// others may have been carried out then. A record that the file ends before is EIO.
int move_records(int file, std::span<const RecordPart> parts, int64_t stride,
                 std::span<const int64_t> rows, std::span<const int64_t> frames, int depth,
                 bool write);

}  // namespace rowwise
