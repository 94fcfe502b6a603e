// Arrays of compiled programs: of any dtype and shape, read as numbers and written.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "plan.hpp"

namespace rowwise {

enum class Dtype {
    boolean,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
    float16,
    bfloat16,
    float32,
    float64
};
std::size_t size_of(Dtype dtype);

// An array of a program's, contiguous.
struct ProgramArray {
    Dtype dtype;
    void* data;
    std::span<const int64_t> shape;

    int64_t size() const;
};

int64_t count_of(std::span<const int64_t> shape);
std::vector<int64_t> with_last(std::span<const int64_t> shape, int64_t last);
std::span<float> floats_out(const ProgramArray& out);
double number(const ProgramArray& scalar);

template <class T>
std::span<const T> span_of(const Buffer<T>& buffer) {
    return {buffer.data(), static_cast<std::size_t>(buffer.size)};
}

// Calls work(read, n) with a function that reads element i as a number of its kind.
template <class Work>
void each_kind(const ProgramArray& array, Work&& work) {
    const auto as = [&]<class T>(T) {
        const T* data = static_cast<const T*>(array.data);
        work([data](int64_t i) { return data[i]; });
    };
    const auto widened = [&](Storage storage) {
        const auto* bits = static_cast<const uint16_t*>(array.data);
        work([=](int64_t i) {
            float value;
            kernels().widen(storage, bits + i, 1, &value);
            return value;
        });
    };
    switch (array.dtype) {
        case Dtype::boolean:
        case Dtype::uint8: return as(uint8_t{});
        case Dtype::int8: return as(int8_t{});
        case Dtype::int16: return as(int16_t{});
        case Dtype::int32: return as(int32_t{});
        case Dtype::int64: return as(int64_t{});
        case Dtype::uint16: return as(uint16_t{});
        case Dtype::uint32: return as(uint32_t{});
        case Dtype::uint64: return as(uint64_t{});
        case Dtype::float32: return as(float{});
        case Dtype::float64: return as(double{});
        case Dtype::float16: return widened(Storage::float16);
        case Dtype::bfloat16: return widened(Storage::bfloat16);
    }
}

// Numbers as float32: those of the array itself, or of a copy.
struct FloatArray {
    Buffer<float> copy;
    std::span<const float> values;

    explicit FloatArray(const ProgramArray& array);
};

// Returns values of an array of `from` repeated to the shape `to`, along axes where `from` has 1.
template <class T>
Buffer<T> repeated(std::span<const T> values, std::span<const int64_t> from,
                   std::span<const int64_t> to) {
    if (from.size() != to.size()) throw std::invalid_argument("arrays of other axes");
    Buffer<T> out(count_of(to));
    const auto copy = [&](auto& self, std::size_t axis, const T* source, T* target) -> void {
        if (axis == to.size()) {
            *target = *source;
            return;
        }
        if (from[axis] != to[axis] && from[axis] != 1)
            throw std::invalid_argument("arrays of shapes that do not fit");
        const int64_t inner = count_of(from.subspan(axis + 1)),
                      outer = count_of(to.subspan(axis + 1));
        for (int64_t i = 0; i < to[axis]; ++i)
            self(self, axis + 1, source + (from[axis] == 1 ? 0 : i) * inner, target + i * outer);
    };
    if (out.size) copy(copy, 0, values.data(), out.data());
    return out;
}

// out <- the numbers of an array of its dtype, repeated to its shape.
void copy_repeated(const ProgramArray& array, const ProgramArray& out);

// Returns the bytes of numbers as an array of this dtype has them.
std::vector<char> converted(std::span<const float> values, Dtype dtype);

// From here on a float stands for several whole numbers: 2^24 + 1 becomes float32's 2^24.
double first_shared(Dtype dtype);

// The position of element i, as Python writes it: of one axis a number, if `bare`.
std::string position_of(int64_t i, std::span<const int64_t> shape, bool bare);

// The message that names the first of ids that is no row, as src/rowwise/_ids.py has it.
std::string text_of_bad_ids(const ProgramArray& ids, int64_t rows);

}  // namespace rowwise
