// The bindings of pretrained vectors' files: blocks of bytes in, rows out, the GIL released.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "arrays.hpp"
#include "formats/vectors.hpp"

namespace rowwise {
namespace {

using Block = Vector<const uint8_t>;
using Ends = Vector<const int64_t>;

// Returns (rows, 3): where a row's word begins and ends in the block, and its line or its end.
template <class Third>
NewMatrix<int64_t> places_of(const std::vector<Span>& rows, Third&& third) {
    auto places = new_array<int64_t>(rows.size(), std::size_t{3});
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
using RowsOfText =
    std::tuple<NewMatrix<int64_t>, NewMatrix<T>, std::tuple<int64_t, int64_t, int64_t>,
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
        const WithoutGil unlocked;
        found = find_rows(text, size, dim, between, has_word, last, limit, wanted);
    }
    if (found.fault != Fault::none) found.rows.clear();
    auto numbers = new_array<T>(found.rows.size(), static_cast<std::size_t>(dim));
    {
        const WithoutGil unlocked;
        read_numbers(text, found, dim, between, has_word, numbers.data());
    }
    return {places_of(found.rows, [](const Span& row) { return row.line; }),
            std::move(numbers),
            {found.consumed, found.lines, found.seen},
            {static_cast<int>(found.fault), found.bad_line, found.bad_at, found.bad_value}};
}

std::tuple<NewMatrix<int64_t>, NewMatrix<float>, int64_t> rows_of_binary(Block block, int64_t size,
                                                                         int64_t dim,
                                                                         int64_t limit) {
    check_dim(dim);
    if (size < 0 || size > static_cast<int64_t>(block.size()))
        throw std::invalid_argument("size is outside the block");
    limit = std::min(limit, size / (dim * 4 + 1));
    auto numbers = new_array<float>(static_cast<std::size_t>(std::max<int64_t>(limit, 0)),
                                    static_cast<std::size_t>(dim));
    std::vector<Span> rows;
    int64_t consumed = 0;
    {
        const WithoutGil unlocked;
        consumed = read_binary(reinterpret_cast<const char*>(block.data()), size, dim, limit, rows,
                               numbers.data());
    }
    return {places_of(rows, [](const Span& row) { return row.end; }), std::move(numbers), consumed};
}

// Returns a copy of where words end that stand one after the other, checked.
std::vector<int64_t> checked_ends(const Block& words, const Ends& ends, std::size_t count) {
    if (ends.size() != count) throw std::invalid_argument("ends must hold one end per row");
    std::vector<int64_t> copy(ends.data(), ends.data() + count);
    int64_t before = 0;
    for (const int64_t end : copy) {
        if (end < before || end > static_cast<int64_t>(words.size()))
            throw std::invalid_argument("the words' ends must ascend within the words");
        before = end;
    }
    return copy;
}

template <class T>
nb::bytes text_of_rows(Block words, Ends ends, Matrix<const T> numbers,
                       const std::string& separator, bool has_word) {
    std::vector<int64_t> end_of;
    if (has_word) end_of = checked_ends(words, ends, numbers.shape(0));
    const char between = one_byte(separator);
    std::string text;
    {
        const WithoutGil unlocked;
        write_rows(reinterpret_cast<const char*>(words.data()), end_of.data(), numbers.data(),
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

void mix(Block words, Ends ends, Matrix<float> rows, Matrix<const float> buckets, int min_length,
         int max_length, bool undo) {
    const std::vector<int64_t> end_of = checked_ends(words, ends, rows.shape(0));
    if (rows.shape(1) != buckets.shape(1))
        throw std::invalid_argument("rows and buckets must have one dim");
    const WithoutGil unlocked;
    mix_subwords(reinterpret_cast<const char*>(words.data()), end_of.data(), rows.data(),
                 static_cast<int64_t>(rows.shape(0)), static_cast<int64_t>(rows.shape(1)),
                 buckets.data(), static_cast<uint32_t>(buckets.shape(0)), min_length, max_length,
                 undo);
}

}  // namespace

void bind_vectors(nb::module_& m) {
    using namespace nb::literals;

    nb::class_<Wanted>(m, "Wanted", "Words to keep, as bytes.")
        .def(
            "__init__",
            [](Wanted* self, const std::vector<nb::bytes>& words) {
                std::vector<std::string> copies;
                copies.reserve(words.size());
                for (const nb::bytes& word : words) copies.emplace_back(word.c_str(), word.size());
                new (self) Wanted(std::move(copies));
            },
            "words"_a);
    constexpr const char* kText =
        "Return the rows of text in the first `size` bytes of a block.\n\n"
        "As (spans, numbers, progress, fault): spans (rows, 3) are where a word begins and ends\n"
        "and its line, numbers are (rows, dim), progress is bytes consumed, lines read and lines\n"
        "that were not empty, fault is its kind, line, byte and value; see\n"
        "native/formats/vectors.hpp.";
    m.def("rows_of_text", &rows_of_text<float>, "block"_a, "size"_a, "dim"_a, "separator"_a,
          "has_word"_a, "last"_a, "limit"_a, "wanted"_a.none(), kText);
    m.def("rows_of_text_float64", &rows_of_text<double>, "block"_a, "size"_a, "dim"_a,
          "separator"_a, "has_word"_a, "last"_a, "limit"_a, "wanted"_a.none(),
          "Return what `rows_of_text` does, with numbers in float64.");
    m.def(
        "rows_of_binary", &rows_of_binary, "block"_a, "size"_a, "dim"_a, "limit"_a,
        "Return the rows of word2vec's binary format in the first `size` bytes of a block: spans\n"
        "(rows, 3), where a word begins and ends and where its row ends; numbers (rows, dim); and\n"
        "the bytes consumed.");
    constexpr const char* kWrite =
        "Return rows as text: word, numbers in the fewest digits that read back as the same, line\n"
        "break. Word i is words[ends[i - 1]:ends[i]].";
    m.def("text_of_rows", &text_of_rows<float>, "words"_a, "ends"_a, "numbers"_a, "separator"_a,
          "has_word"_a, kWrite);
    m.def("text_of_rows", &text_of_rows<double>, "words"_a, "ends"_a, "numbers"_a, "separator"_a,
          "has_word"_a, kWrite);
    m.def("subwords", &subwords, "word"_a, "min_length"_a, "max_length"_a, "buckets"_a,
          "Return which of the buckets hold fastText's character n-grams of a word.");
    m.def(
        "mix_subwords", &mix, "words"_a, "ends"_a, "rows"_a, "buckets"_a, "min_length"_a,
        "max_length"_a, "undo"_a,
        "Replace rows (n, dim) by the means of themselves and their n-grams' rows, or with `undo`\n"
        "by what they were before.");
}

}  // namespace rowwise
