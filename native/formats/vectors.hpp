// Files of pretrained vectors, a block at a time: the caller reads blocks, these find the rows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace rowwise {

// What is wrong with a line, or nothing.
enum class Fault { none, too_few, not_a_number };

// A row's place in a block: the word is [begin, word_end), its numbers are before `end`.
struct Span {
    int64_t begin, word_end, end;
    int64_t line;  // of the block, from 0
};

struct TextRows {
    std::vector<Span> rows;
    int64_t consumed = 0;  // bytes, up to the end of the last whole line that was read
    int64_t lines = 0;     // that were read, empty ones too
    int64_t seen = 0;      // lines that were not empty
    Fault fault = Fault::none;
    int64_t bad_line = 0, bad_at = 0, bad_value = 0;  // where; how many numbers were found before
};

// Words to keep, as bytes.
class Wanted {
  public:
    explicit Wanted(std::vector<std::string> words) : words_(std::move(words)) {
        known_.reserve(words_.size());
        for (const auto& word : words_) known_.insert(word);
    }
    bool has(std::string_view word) const { return known_.contains(word); }

  private:
    std::vector<std::string> words_;
    std::unordered_set<std::string_view> known_;
};

// Finds the rows in text: words before `dim` numbers, separated by `separator` and split from the
// right; or `dim` numbers alone. At most `limit` lines that are not empty are read. The last line
// counts without a line break only if `last`.
TextRows find_rows(const char* text, int64_t size, int64_t dim, char separator, bool has_word,
                   bool last, int64_t limit, const Wanted* wanted);

// Writes the numbers of the rows found to out, (rows, dim). On a fault, `found` says where.
template <class T>
void read_numbers(const char* text, TextRows& found, int64_t dim, char separator, bool has_word,
                  T* out);

// Appends `count` rows: word, numbers in the fewest digits that read back as the same, line break.
// Word i is words[ends[i - 1]:ends[i]].
template <class T>
void write_rows(const char* words, const int64_t* ends, const T* numbers, int64_t count,
                int64_t dim, char separator, bool has_word, std::string& text);

// Rows of word2vec's binary format: word, space, dim float32, as many as are whole in the block.
// A word that starts with line breaks loses them. Returns the bytes consumed.
int64_t read_binary(const char* block, int64_t size, int64_t dim, int64_t limit,
                    std::vector<Span>& rows, float* out);

// fastText's character n-grams of a word, as places among `buckets`, appended to `places`.
void add_subwords(std::string_view word, int min_length, int max_length, uint32_t buckets,
                  std::vector<uint32_t>& places);

// Makes rows[i], of rows (count, dim), the mean of itself and its n-grams' rows in grams (buckets,
// dim), or with `undo` what it was before. Word i is words[ends[i - 1]:ends[i]].
void mix_subwords(const char* words, const int64_t* ends, float* rows, int64_t count, int64_t dim,
                  const float* grams, uint32_t buckets, int min_length, int max_length, bool undo);

}  // namespace rowwise
