// Vectors as text: lines are found on one thread, which costs little, and read on all.
#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <mutex>

#include "formats/vectors.hpp"
#include "threads.hpp"

namespace rowwise {
namespace {

constexpr int64_t kGrain = 64;  // lines per piece of work

// (first, last) of a line without the spaces and the carriage return at its end.
const char* trimmed(const char* first, const char* last, char separator) {
    while (last > first && (last[-1] == separator || last[-1] == '\r')) --last;
    return last;
}

// Where the word ends when `dim` numbers follow it, or nullptr. Runs of separators stand for one,
// except between the word and its numbers: the word may end in a space of its own.
const char* word_end(const char* first, const char* last, int64_t dim, char separator) {
    const auto separators = std::count(first, last, separator);
    if (separators < dim) return nullptr;
    if (separators == dim)
        return static_cast<const char*>(std::memchr(first, separator, last - first));
    const char* at = last;
    for (int64_t i = 0; i < dim; ++i) {
        while (at > first && at[-1] != separator) --at;
        if (at == first) return nullptr;
        --at;
        if (i + 1 < dim)
            while (at > first && at[-1] == separator) --at;
    }
    return at;
}

int64_t fields(const char* first, const char* last, char separator) {
    int64_t count = 0;
    for (const char* at = first; at < last; ++at)
        count += *at != separator && (at == first || at[-1] == separator);
    return count;
}

constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                              1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                              1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// Digits with a point, as nearly all numbers in such files are: mantissa and power are exact in
// float64, so that their quotient is the float64 nearest to what is written. Rounded once more it
// is the nearest float32, unless it lies just between two. Returns nullptr for anything else.
template <class T>
const char* read_plain(const char* at, const char* last, T& value) {
    const bool negative = *at == '-';
    at += negative;
    uint64_t mantissa = 0;
    const char* first = at;
    while (at < last && static_cast<unsigned char>(*at - '0') < 10)
        mantissa = mantissa * 10 + (*at++ - '0');
    int64_t digits = at - first, decimals = 0;
    if (at < last && *at == '.') {
        first = ++at;
        while (at < last && static_cast<unsigned char>(*at - '0') < 10)
            mantissa = mantissa * 10 + (*at++ - '0');
        decimals = at - first;
        digits += decimals;
    }
    if (digits == 0 || digits > 18 || mantissa >> 53 != 0) return nullptr;
    if (at < last && (*at == 'e' || *at == 'E' || *at == '.')) return nullptr;
    const double nearest = static_cast<double>(mantissa) / kPowers[decimals];
    if constexpr (sizeof(T) == 4) {
        constexpr uint64_t below = (uint64_t{1} << 29) - 1;
        const uint64_t bits = std::bit_cast<uint64_t>(nearest);
        if ((bits & below) == uint64_t{1} << 28) return nullptr;
        if (nearest != 0 && nearest < 1e-37) return nullptr;  // float32 has fewer bits there
    }
    value = static_cast<T>(negative ? -nearest : nearest);
    return at;
}

// Any other number. One too large for T is infinite, one too small is 0, as in Python.
template <class T>
const char* read_any(const char* at, const char* last, T& value) {
    if (at < last && *at == '+') ++at;
    const auto [end, error] = std::from_chars(at, last, value);
    if (error == std::errc::invalid_argument) return nullptr;
    if (error == std::errc::result_out_of_range) {
        const std::string_view digits(at, static_cast<std::size_t>(end - at));
        const auto first = digits.find_first_not_of("-");
        const bool tiny = digits.find("e-") != digits.npos || digits.find("E-") != digits.npos ||
                          digits[first] == '0' || digits[first] == '.';
        value = tiny ? T{0} : std::numeric_limits<T>::infinity();
        double wide = 0;  // what float32 cannot hold exactly it may hold rounded
        if (std::from_chars(at, last, wide).ec == std::errc{}) value = static_cast<T>(wide);
    }
    return end;
}

// The numbers of one row. Returns how many were read; `dim` if all were and nothing follows.
template <class T>
int64_t read_row(const char* at, const char* last, int64_t dim, char separator, T* out,
                 const char*& bad_at) {
    for (int64_t i = 0; i < dim; ++i) {
        while (at < last && *at == separator) ++at;
        bad_at = at;
        if (at == last) return i;
        const char* end = read_plain(at, last, out[i]);
        if (end == nullptr || (end < last && *end != separator)) end = read_any(at, last, out[i]);
        if (end == nullptr || (end < last && *end != separator)) return i;
        at = end;
    }
    bad_at = at;
    return at == last ? dim : dim - 1;
}

void blame(TextRows& found, Fault fault, int64_t line, int64_t at, int64_t value) {
    if (found.fault != Fault::none && found.bad_line <= line) return;
    found.fault = fault;
    found.bad_line = line;
    found.bad_at = at;
    found.bad_value = value;
}

}  // namespace

TextRows find_rows(const char* text, int64_t size, int64_t dim, char separator, bool has_word,
                   bool last, int64_t limit, const Wanted* wanted) {
    TextRows found;
    const char* const end = text + size;
    for (const char* at = text; at < end && found.seen < limit; ++found.lines) {
        const auto* line_break = static_cast<const char*>(std::memchr(at, '\n', end - at));
        if (line_break == nullptr && !last) break;
        const char* stop = line_break != nullptr ? line_break : end;
        const char* trimmed_end = trimmed(at, stop, separator);
        if (trimmed_end > at) {
            found.rows.push_back({at - text, -1, trimmed_end - text, found.lines});
            ++found.seen;
        }
        at = line_break != nullptr ? line_break + 1 : end;
        found.consumed = at - text;
    }
    std::mutex mutex;
    parallel(static_cast<int64_t>(found.rows.size()), kGrain, [&](int64_t begin, int64_t stop) {
        for (int64_t i = begin; i < stop; ++i) {
            Span& row = found.rows[i];
            const char *first = text + row.begin, *row_end = text + row.end;
            const char* cut = first;
            if (has_word) {
                cut = word_end(first, row_end, dim, separator);
            } else if (std::count(first, row_end, separator) < dim - 1) {
                cut = nullptr;
            }
            if (cut == nullptr) {
                const std::lock_guard lock(mutex);
                blame(found, Fault::too_few, row.line, row.begin,
                      fields(first, row_end, separator) - has_word);
                return;
            }
            row.word_end = cut - text;
            if (wanted != nullptr && !wanted->has({first, static_cast<std::size_t>(cut - first)}))
                row.word_end = -1;
        }
    });
    if (found.fault == Fault::none && wanted != nullptr)
        std::erase_if(found.rows, [](const Span& row) { return row.word_end < 0; });
    return found;
}

template <class T>
void read_numbers(const char* text, TextRows& found, int64_t dim, char separator, bool has_word,
                  T* out) {
    std::mutex mutex;
    parallel(static_cast<int64_t>(found.rows.size()), kGrain, [&](int64_t begin, int64_t stop) {
        for (int64_t i = begin; i < stop; ++i) {
            const Span& row = found.rows[i];
            const char *bad_at = nullptr, *first = text + row.word_end + has_word;
            const int64_t read =
                read_row(first, text + row.end, dim, separator, out + i * dim, bad_at);
            if (read == dim) continue;
            const std::lock_guard lock(mutex);
            blame(found, Fault::not_a_number, row.line, bad_at - text, read);
            return;
        }
    });
}

template void read_numbers(const char*, TextRows&, int64_t, char, bool, float*);
template void read_numbers(const char*, TextRows&, int64_t, char, bool, double*);

template <class T>
void write_rows(const char* words, const int64_t* ends, const T* numbers, int64_t count,
                int64_t dim, char separator, bool has_word, std::string& text) {
    char digits[64];
    for (int64_t i = 0; i < count; ++i) {
        if (has_word) {
            const int64_t begin = i == 0 ? 0 : ends[i - 1];
            text.append(words + begin, words + ends[i]);
        }
        for (int64_t j = 0; j < dim; ++j) {
            if (has_word || j > 0) text += separator;
            const auto written =
                std::to_chars(digits, digits + sizeof digits, numbers[i * dim + j]);
            text.append(digits, written.ptr);
        }
        text += '\n';
    }
}

template void write_rows(const char*, const int64_t*, const float*, int64_t, int64_t, char, bool,
                         std::string&);
template void write_rows(const char*, const int64_t*, const double*, int64_t, int64_t, char, bool,
                         std::string&);

}  // namespace rowwise
