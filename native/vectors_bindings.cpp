// The bindings of pretrained vectors' files: blocks of bytes in, rows out, the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "threads.hpp"
#include "vectors.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace rowwise {
namespace {

using Block = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ends = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Fresh = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

// (rows, dim) numbers not yet written, owned by the array.
template <class T>
Fresh<T> fresh(std::size_t rows, std::size_t dim) {
    auto* memory = new T[rows * dim + 1];
    return {memory, {rows, dim}, nb::capsule(memory, [](void* p) noexcept {
                delete[] static_cast<T*>(p);
            })};
}

// (rows, 3): where a row's word begins and ends in the block, and its line or its first byte.
template <class Third>
Fresh<int64_t> places_of(const std::vector<Span>& rows, Third&& third) {
    auto places = fresh<int64_t>(rows.size(), 3);
    int64_t* out = places.data();
    for (const Span& row : rows) {
        *out++ = row.begin;
        *out++ = row.word_end;
        *out++ = third(row);
    }
    return places;
}

char one_byte(const std::string& separator) {
    if (separator.size() != 1) throw std::invalid_argument("separator must be one byte");
    return separator[0];
}

void check_dim(int64_t dim) {
    if (dim < 1) throw std::invalid_argument("dim must be 1 or more");
}

// Places and numbers of rows; bytes consumed, lines and rows seen; fault, its line, byte and value.
template <class T>
using RowsOfText = std::tuple<Fresh<int64_t>, Fresh<T>, std::tuple<int64_t, int64_t, int64_t>,
                              std::tuple<int, int64_t, int64_t, int64_t>>;

template <class T>
RowsOfText<T> rows_of_text(Block block, int64_t size, int64_t dim, const std::string& separator,
                       bool has_word, bool last, int64_t limit, const Wanted* wanted) {
    check_dim(dim);
    if (size < 0 || size > static_cast<int64_t>(block.size()))
        throw std::invalid_argument("size is outside the block");
    const char between = one_byte(separator);
    const char* text = reinterpret_cast<const char*>(block.data());
    TextRows found;
    {
        const nb::gil_scoped_release release;
        found = find_rows(text, size, dim, between, has_word, last, limit, wanted);
    }
    if (found.fault != Fault::none) found.rows.clear();
    auto numbers = fresh<T>(found.rows.size(), static_cast<std::size_t>(dim));
    {
        const nb::gil_scoped_release release;
        read_numbers(text, found, dim, between, has_word, numbers.data());
    }
    return {places_of(found.rows, [](const Span& row) { return row.line; }), std::move(numbers),
            {found.consumed, found.lines, found.seen},
            {static_cast<int>(found.fault), found.bad_line, found.bad_at, found.bad_value}};
}

std::tuple<Fresh<int64_t>, Fresh<float>, int64_t> rows_of_binary(Block block, int64_t size,
                                                                 int64_t dim, int64_t limit) {
    check_dim(dim);
    if (size < 0 || size > static_cast<int64_t>(block.size()))
        throw std::invalid_argument("size is outside the block");
    limit = std::min(limit, size / (dim * 4 + 1));
    auto numbers = fresh<float>(static_cast<std::size_t>(std::max<int64_t>(limit, 0)),
                                static_cast<std::size_t>(dim));
    std::vector<Span> rows;
    int64_t consumed = 0;
    {
        const nb::gil_scoped_release release;
        consumed = read_binary(reinterpret_cast<const char*>(block.data()), size, dim, limit, rows,
                               numbers.data());
    }
    return {places_of(rows, [](const Span& row) { return row.end; }), std::move(numbers),
            consumed};
}

// Words, one after the other, with where each ends.
void check_ends(const Block& words, const Ends& ends, std::size_t count) {
    if (ends.size() != count) throw std::invalid_argument("ends must hold one end per row");
    int64_t before = 0;
    for (std::size_t i = 0; i < count; before = ends.data()[i++])
        if (ends.data()[i] < before || ends.data()[i] > static_cast<int64_t>(words.size()))
            throw std::invalid_argument("the words' ends must ascend within the words");
}

template <class T>
nb::bytes text_of_rows(Block words, Ends ends, Matrix<const T> numbers,
                       const std::string& separator, bool has_word) {
    if (has_word) check_ends(words, ends, numbers.shape(0));
    const char between = one_byte(separator);
    std::string text;
    {
        const nb::gil_scoped_release release;
        write_rows(reinterpret_cast<const char*>(words.data()), ends.data(), numbers.data(),
                   static_cast<int64_t>(numbers.shape(0)), static_cast<int64_t>(numbers.shape(1)),
                   between, has_word, text);
    }
    return nb::bytes(text.data(), text.size());
}

std::vector<uint32_t> subwords(const nb::bytes& word, int min_length, int max_length,
                               uint32_t buckets) {
    std::vector<uint32_t> places;
    add_subwords({word.c_str(), word.size()}, min_length, max_length, buckets, places);
    return places;
}

// rows[i] becomes the mean of itself and its n-grams' rows, or with `undo` what it was before.
void mix_subwords(Block words, Ends ends, Matrix<float> rows, Matrix<const float> buckets,
                  int min_length, int max_length, bool undo) {
    check_ends(words, ends, rows.shape(0));
    if (rows.shape(1) != buckets.shape(1))
        throw std::invalid_argument("rows and buckets must have one dim");
    const auto dim = static_cast<int64_t>(rows.shape(1));
    const auto count = static_cast<uint32_t>(buckets.shape(0));
    const char* text = reinterpret_cast<const char*>(words.data());
    const int64_t* end_of = ends.data();
    float* values = rows.data();
    const float* grams = buckets.data();
    const nb::gil_scoped_release release;
    parallel(static_cast<int64_t>(rows.shape(0)), 256, [&](int64_t begin, int64_t stop) {
        std::vector<uint32_t> places;
        std::vector<double> sum(static_cast<std::size_t>(dim));
        for (int64_t i = begin; i < stop; ++i) {
            const int64_t start = i == 0 ? 0 : end_of[i - 1];
            const std::string_view word(text + start, static_cast<std::size_t>(end_of[i] - start));
            if (word == "</s>") continue;  // fastText's end of a sentence has no n-grams
            places.clear();
            add_subwords(word, min_length, max_length, count, places);
            std::fill(sum.begin(), sum.end(), 0.0);
            for (const uint32_t place : places)
                for (int64_t j = 0; j < dim; ++j) sum[j] += grams[int64_t{place} * dim + j];
            const auto parts = static_cast<double>(places.size() + 1);
            float* row = values + i * dim;
            for (int64_t j = 0; j < dim; ++j)
                row[j] = static_cast<float>(undo ? row[j] * parts - sum[j]
                                                 : (row[j] + sum[j]) / parts);
        }
    });
}

}  // namespace

void bind_vectors(nb::module_& m) {
    nb::class_<Wanted>(m, "Wanted").def(
        "__init__",
        [](Wanted* self, const std::vector<nb::bytes>& words) {
            std::vector<std::string> copies;
            copies.reserve(words.size());
            for (const nb::bytes& word : words) copies.emplace_back(word.c_str(), word.size());
            new (self) Wanted(std::move(copies));
        },
        "words"_a);
    m.def("rows_of_text", &rows_of_text<float>, "block"_a, "size"_a, "dim"_a, "separator"_a,
          "has_word"_a, "last"_a, "limit"_a, "wanted"_a.none());
    m.def("rows_of_text_float64", &rows_of_text<double>, "block"_a, "size"_a, "dim"_a,
          "separator"_a, "has_word"_a, "last"_a, "limit"_a, "wanted"_a.none());
    m.def("rows_of_binary", &rows_of_binary, "block"_a, "size"_a, "dim"_a, "limit"_a);
    m.def("text_of_rows", &text_of_rows<float>, "words"_a, "ends"_a, "numbers"_a, "separator"_a,
          "has_word"_a);
    m.def("text_of_rows", &text_of_rows<double>, "words"_a, "ends"_a, "numbers"_a, "separator"_a,
          "has_word"_a);
    m.def("subwords", &subwords, "word"_a, "min_length"_a, "max_length"_a, "buckets"_a);
    m.def("mix_subwords", &mix_subwords, "words"_a, "ends"_a, "rows"_a, "buckets"_a,
          "min_length"_a, "max_length"_a, "undo"_a);
}

}  // namespace rowwise
