// The bindings of rows on a disk.
#include "disk.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "arrays.hpp"

namespace rowwise {

namespace {

using Parts = std::vector<Matrix<uint8_t>>;
using Numbers = Vector<const int64_t>;
using Bytes = Vector<uint8_t>;

// Returns the parts of a record, once every frame is found to be inside of them.
std::vector<RecordPart> checked_parts(const Parts& parts, const Numbers& frames, int64_t stride) {
    std::vector<RecordPart> pointers;
    int64_t bytes = 0;
    for (const Matrix<uint8_t>& part : parts) {
        const auto width = static_cast<int64_t>(part.shape(1));
        pointers.push_back({reinterpret_cast<std::byte*>(part.data()), width});
        bytes += width;
        for (const int64_t frame : span_of(frames))
            if (frame < 0 || frame >= static_cast<int64_t>(part.shape(0)))
                throw std::out_of_range("a frame is outside the arrays");
    }
    if (bytes > stride) throw std::invalid_argument("a record is longer than the stride");
    return pointers;
}

void check_inside(const Numbers& begins, int64_t size, int64_t room) {
    for (const int64_t begin : span_of(begins))
        if (begin < 0 || begin > room - size)
            throw std::out_of_range("a record is outside the memory");
}

void check_same(const Numbers& one, const Numbers& other) {
    if (one.size() != other.size()) throw std::invalid_argument("arrays of different lengths");
}

std::byte* start_of(const Bytes& bytes) { return reinterpret_cast<std::byte*>(bytes.data()); }

}  // namespace

void bind_disk(nb::module_& m) {
    using namespace nb::literals;
    m.def(
        "read_records",
        [](int file, int64_t stride, int64_t block, const Parts& parts, const Numbers& at,
           const Numbers& frames, int depth) {
            check_same(at, frames);
            const auto pointers = checked_parts(parts, frames, stride);
            const WithoutGil unlocked;
            return read_records({file, stride, block}, pointers, span_of(at), span_of(frames),
                                depth);
        },
        "file"_a, "stride"_a, "block"_a, "parts"_a, "at"_a, "frames"_a, "depth"_a,
        "Read the records that begin at bytes at (n,) into frames (n,) of the parts.\n\n"
        "A record is the parts' rows (frames, bytes) side by side, in `stride` bytes of the file,\n"
        "whose requests are multiples of `block`. Return 0, or an errno.");
    m.def(
        "pack_records",
        [](const Parts& parts, int64_t stride, const Numbers& frames, const Numbers& to,
           const Bytes& out) {
            check_same(frames, to);
            check_inside(to, stride, static_cast<int64_t>(out.size()));
            const auto pointers = checked_parts(parts, frames, stride);
            const WithoutGil unlocked;
            pack_records(pointers, span_of(frames), span_of(to), start_of(out));
        },
        "parts"_a, "stride"_a, "frames"_a, "to"_a, "out"_a,
        "Write frames (n,) of the parts as records, which begin at bytes to (n,) of out.");
    m.def(
        "write_pieces",
        [](int file, const Bytes& memory, const Numbers& from, const Numbers& bytes,
           const Numbers& at, int depth) {
            check_same(from, at);
            check_same(from, bytes);
            for (std::size_t i = 0; i < from.size(); ++i)
                if (bytes.data()[i] < 0 || from.data()[i] < 0 ||
                    from.data()[i] > static_cast<int64_t>(memory.size()) - bytes.data()[i])
                    throw std::out_of_range("a piece is outside the memory");
            const WithoutGil unlocked;
            return write_pieces({file, 0, 1}, start_of(memory), span_of(from), span_of(bytes),
                                span_of(at), depth);
        },
        "file"_a, "memory"_a, "from_"_a, "bytes"_a, "at"_a, "depth"_a,
        "Write bytes (n,) at from_ (n,) of memory to at (n,) of the file. Return 0, or an errno.");
    m.def(
        "merge_records",
        [](int file, int64_t stride, std::pair<int64_t, int64_t> home,
           std::pair<int64_t, int64_t> log, const Numbers& logged, const Numbers& logged_from,
           const Bytes& packed, const Numbers& newest, const Numbers& newest_from) {
            check_same(logged, logged_from);
            check_same(newest, newest_from);
            check_inside(logged_from, stride, log.second);
            check_inside(newest_from, stride, static_cast<int64_t>(packed.size()));
            for (const Numbers& slots : {logged, newest})
                for (const int64_t slot : span_of(slots))
                    if (slot < 0 || slot >= home.second / stride)
                        throw std::out_of_range("a record is outside the region");
            const WithoutGil unlocked;
            return merge_records({file, stride, 1}, {home.first, home.second},
                                 {log.first, log.second}, {span_of(logged), span_of(logged_from)},
                                 start_of(packed), {span_of(newest), span_of(newest_from)});
        },
        "file"_a, "stride"_a, "home"_a, "log"_a, "logged"_a, "logged_from"_a, "packed"_a,
        "newest"_a, "newest_from"_a,
        "Put newer records among those of a stretch (begin, bytes) of the file, home.\n\n"
        "Those of numbers logged (n,) lie at bytes logged_from (n,) of another stretch, log.\n"
        "Those of numbers newest (m,), newer still, lie at newest_from (m,) of packed.\n"
        "Return 0, or an errno.");
}

}  // namespace rowwise
