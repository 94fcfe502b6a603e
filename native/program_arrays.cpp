#include "program_arrays.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string_view>
#include <type_traits>

namespace rowwise {

namespace {

// A number as Python writes it.
std::string written(double value) {
    std::array<char, 32> text;
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
    const std::string_view digits(text.data(), end - text.data());
    const bool whole = digits.find_first_not_of("-0123456789") == digits.npos;
    return std::string(digits) + (whole ? ".0" : "");
}

}  // namespace

std::size_t size_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::boolean:
        case Dtype::int8:
        case Dtype::uint8: return 1;
        case Dtype::int16:
        case Dtype::uint16:
        case Dtype::float16:
        case Dtype::bfloat16: return 2;
        case Dtype::int32:
        case Dtype::uint32:
        case Dtype::float32: return 4;
        default: return 8;
    }
}

int64_t ProgramArray::size() const { return count_of(shape); }

FloatArray::FloatArray(const ProgramArray& array) {
    const int64_t n = array.size();
    if (array.dtype == Dtype::float32) {
        values = {static_cast<const float*>(array.data), static_cast<std::size_t>(n)};
        return;
    }
    copy = Buffer<float>(n);
    each_kind(array, [&](auto read) {
        for (int64_t i = 0; i < n; ++i) copy[i] = static_cast<float>(read(i));
    });
    values = {copy.data(), static_cast<std::size_t>(n)};
}

int64_t count_of(std::span<const int64_t> shape) {
    int64_t count = 1;
    for (const int64_t axis : shape) count *= axis;
    return count;
}

double first_shared(Dtype dtype) {
    switch (dtype) {
        case Dtype::bfloat16: return 0x1p8;
        case Dtype::float16: return 0x1p11;
        case Dtype::float32: return 0x1p24;
        default: return 0x1p53;
    }
}

std::string position_of(int64_t i, std::span<const int64_t> shape, bool bare) {
    std::string position;
    for (std::size_t axis = shape.size(); axis-- > 0; i /= shape[axis])
        position = std::to_string(i % shape[axis]) + (position.empty() ? "" : ", " + position);
    if (shape.size() == 1) return bare ? position : "(" + position + ",)";
    return "(" + position + ")";
}

void copy_repeated(const ProgramArray& array, const ProgramArray& out) {
    if (std::ranges::equal(array.shape, out.shape)) {
        std::memcpy(out.data, array.data, out.size() * size_of(out.dtype));
        return;
    }
    const auto as = [&]<class T>(T) {
        const std::span<const T> values(static_cast<const T*>(array.data),
                                        static_cast<std::size_t>(array.size()));
        const Buffer<T> copy = repeated<T>(values, array.shape, out.shape);
        std::copy(copy.begin(), copy.end(), static_cast<T*>(out.data));
    };
    switch (size_of(out.dtype)) {
        case 2: return as(uint16_t{});
        case 4: return as(uint32_t{});
        case 8: return as(uint64_t{});
        default: throw std::invalid_argument("vectors of a dtype that tables do not give");
    }
}

std::vector<char> converted(std::span<const float> values, Dtype dtype) {
    std::vector<char> bytes(values.size() * size_of(dtype));
    const auto n = static_cast<int64_t>(values.size());
    const auto narrow = [&](Storage storage) {
        kernels().narrow(storage, values.data(), n, reinterpret_cast<uint16_t*>(bytes.data()));
    };
    switch (dtype) {
        case Dtype::float32: std::memcpy(bytes.data(), values.data(), bytes.size()); break;
        case Dtype::float64:
            std::copy(values.begin(), values.end(), reinterpret_cast<double*>(bytes.data()));
            break;
        case Dtype::bfloat16: narrow(Storage::bfloat16); break;
        case Dtype::float16: narrow(Storage::float16); break;
        default: throw std::invalid_argument("vectors of a dtype that tables do not give");
    }
    return bytes;
}

std::vector<int64_t> with_last(std::span<const int64_t> shape, int64_t last) {
    std::vector<int64_t> changed(shape.begin(), shape.end());
    changed.back() = last;
    return changed;
}

std::span<float> floats_out(const ProgramArray& out) {
    return {static_cast<float*>(out.data), static_cast<std::size_t>(out.size())};
}

double number(const ProgramArray& scalar) {
    double value = 0;
    each_kind(scalar, [&](auto read) { value = static_cast<double>(read(0)); });
    return value;
}

std::string text_of_bad_ids(const ProgramArray& ids, int64_t rows) {
    std::string text = "ids must be integers";
    if (ids.dtype == Dtype::boolean) return text;
    each_kind(ids, [&](auto read) {
        const double shared = first_shared(ids.dtype);
        for (int64_t i = 0; i < ids.size(); ++i) {
            const auto id = read(i);
            const auto where = [&] {
                return ids.shape.empty() ? "" : " at position " + position_of(i, ids.shape, true);
            };
            std::string number;
            if constexpr (std::is_floating_point_v<decltype(id)>) {
                const auto value = static_cast<double>(id);
                const bool whole = std::isfinite(value) && std::trunc(value) == value;
                if (!whole || std::abs(value) >= shared) {
                    text = "id " + written(value) + where() +
                           (whole ? " is so large that its dtype no longer tells neighbouring ids "
                                    "apart"
                                  : " is not a whole number") +
                           "; give ids as integers";
                    return;
                }
                number = std::to_string(static_cast<int64_t>(id));
            } else {
                number = std::to_string(id);
            }
            if (id >= 0 && static_cast<uint64_t>(id) < static_cast<uint64_t>(rows)) continue;
            text = "id " + number + where() + " is outside the table's " + std::to_string(rows) +
                   " rows (0.." + std::to_string(rows - 1) +
                   "); make the table larger, or map such ids to a row of their own";
            return;
        }
    });
    return text;
}

}  // namespace rowwise
