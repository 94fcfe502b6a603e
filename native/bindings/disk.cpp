// The bindings of rows on a disk.
#include "disk.hpp"

#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "arrays.hpp"

namespace rowwise {

void bind_disk(nb::module_& m) {
    using namespace nb::literals;
    m.def(
        "move_records",
        [](int file, const std::vector<Matrix<uint8_t>>& parts, int64_t stride,
           const Vector<const int64_t>& rows, const Vector<const int64_t>& frames, int depth,
           bool write) {
            if (rows.size() != frames.size())
                throw std::invalid_argument("frames must hold one frame per row");
            std::vector<RecordPart> places;
            for (const Matrix<uint8_t>& part : parts) {
                places.push_back({reinterpret_cast<std::byte*>(part.data()),
                                  static_cast<int64_t>(part.shape(1))});
                for (const int64_t frame : span_of(frames))
                    if (frame < 0 || frame >= static_cast<int64_t>(part.shape(0)))
                        throw std::out_of_range("a frame is outside the arrays");
            }
            int64_t bytes = 0;
            for (const RecordPart& place : places) bytes += place.bytes;
            if (bytes > stride) throw std::invalid_argument("a record is longer than the stride");
            int error = 0;
            {
                const WithoutGil unlocked;
                error = move_records(file, places, stride, span_of(rows), span_of(frames), depth,
                                     write);
            }
            return error;
        },
        "file"_a, "parts"_a, "stride"_a, "rows"_a, "frames"_a, nb::kw_only(), "depth"_a, "write"_a,
        "Read records of rows (n,) into frames (n,) of the parts, or write them from there.\n\n"
        "A record is the parts' rows (frames, bytes) side by side, in `stride` bytes of the file.\n"
        "Return 0, or an errno.");
}

}  // namespace rowwise
