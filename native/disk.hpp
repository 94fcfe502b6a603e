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

// A file of records of `stride` bytes each, of which those beyond the parts are zeros. Where it
// bypasses the system's cache, offsets, sizes and addresses of requests are multiples of `block`,
// which is then 512 or 4096.
struct RecordFile {
    int file;
    int64_t stride;
    int64_t block;
};

// Reads the records that begin at bytes at[i] of the file into frames frames[i] of the parts, with
// `depth` requests under way at once. Returns 0, or the errno of a request that failed; others may
// have been carried out then. A record that the file ends before is EIO.
int read_records(const RecordFile& file, std::span<const RecordPart> parts,
                 std::span<const int64_t> at, std::span<const int64_t> frames, int depth);

// Writes frames frames[i] of the parts as records, which begin at out + to[i].
void pack_records(std::span<const RecordPart> parts, std::span<const int64_t> frames,
                  std::span<const int64_t> to, std::byte* out);

// Writes pieces of memory, bytes[i] at memory + from[i], to at[i] of the file, `depth` at once.
// Returns 0, or an errno.
int write_pieces(const RecordFile& file, std::byte* memory, std::span<const int64_t> from,
                 std::span<const int64_t> bytes, std::span<const int64_t> at, int depth);

// Records to put into a buffer: that at from[i] of a source becomes the one of number slots[i].
struct Moves {
    std::span<const int64_t> slots;
    std::span<const int64_t> from;
};

// Bytes of a file.
struct Stretch {
    int64_t at, size;
};

// Reads the records at home, and the log of newer ones; puts among the first what the log has of
// them, and what `packed` has, which is newer still, each once; and writes them where they were.
// Where all are in `packed`, nothing is read. Returns 0, or an errno.
int merge_records(const RecordFile& file, Stretch home, Stretch log, const Moves& logged,
                  const std::byte* packed, const Moves& newest);

}  // namespace rowwise
