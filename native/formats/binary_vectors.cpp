// word2vec's binary rows, and fastText's character n-grams.
#include <algorithm>
#include <cstring>

#include "formats/vectors.hpp"
#include "threads.hpp"

namespace rowwise {

int64_t read_binary(const char* block, int64_t size, int64_t dim, int64_t limit,
                    std::vector<Span>& rows, float* out) {
    const int64_t bytes = dim * static_cast<int64_t>(sizeof(float));
    int64_t at = 0;
    while (static_cast<int64_t>(rows.size()) < limit) {
        int64_t begin = at;
        while (begin < size && block[begin] == '\n') ++begin;
        const auto* space = static_cast<const char*>(std::memchr(block + begin, ' ', size - begin));
        if (space == nullptr || block + size - (space + 1) < bytes) break;
        const int64_t end = space - block;
        std::memcpy(out + rows.size() * dim, space + 1, bytes);
        at = end + 1 + bytes;
        rows.push_back({begin, end, at, 0});
    }
    return at;
}

namespace {

// FNV-1a over bytes as signed numbers, which is what fastText's files are made with.
uint32_t hash_of(const char* first, const char* last) {
    uint32_t hash = 2166136261u;
    for (; first < last; ++first) {
        hash ^= static_cast<uint32_t>(static_cast<int8_t>(*first));
        hash *= 16777619u;
    }
    return hash;
}

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

void add_subwords(std::string_view word, int min_length, int max_length, uint32_t buckets,
                  std::vector<uint32_t>& places) {
    if (buckets == 0) return;
    std::string text;
    text.reserve(word.size() + 2);
    text.append("<").append(word).append(">");
    const char *const first = text.data(), *const last = first + text.size();
    for (const char* begin = first; begin < last; ++begin) {
        if (continues(*begin)) continue;
        const char* end = begin;
        for (int length = 1; end < last && length <= max_length; ++length) {
            for (++end; end < last && continues(*end);) ++end;
            const bool bracket = length == 1 && (begin == first || end == last);
            if (length >= min_length && !bracket) places.push_back(hash_of(begin, end) % buckets);
        }
    }
}

void mix_subwords(const char* words, const int64_t* ends, float* rows, int64_t count, int64_t dim,
                  const float* grams, uint32_t buckets, int min_length, int max_length, bool undo) {
    parallel(count, 256, [&](int64_t begin, int64_t stop) {
        std::vector<uint32_t> places;
        std::vector<double> sum(static_cast<std::size_t>(dim));
        for (int64_t i = begin; i < stop; ++i) {
            const int64_t start = i == 0 ? 0 : ends[i - 1];
            const std::string_view word(words + start, static_cast<std::size_t>(ends[i] - start));
            if (word == "</s>") continue;  // fastText's end of a sentence has no n-grams
            places.clear();
            add_subwords(word, min_length, max_length, buckets, places);
            std::fill(sum.begin(), sum.end(), 0.0);
            for (const uint32_t place : places)
                for (int64_t j = 0; j < dim; ++j) sum[j] += grams[int64_t{place} * dim + j];
            const auto parts = static_cast<double>(places.size() + 1);
            float* row = rows + i * dim;
            for (int64_t j = 0; j < dim; ++j)
                row[j] =
                    static_cast<float>(undo ? row[j] * parts - sum[j] : (row[j] + sum[j]) / parts);
        }
    });
}

}  // namespace rowwise
