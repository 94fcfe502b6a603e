// The binding of word2vec's training: tables and encoded text in, the GIL released.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "arrays.hpp"
#include "kernels.hpp"
#include "word2vec/word2vec.hpp"

namespace rowwise {
namespace {

template <class T>
using Given = Vector<const T>;

void check(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

void train(const Matrix<float>& input, const Matrix<float>& output, const Vector<uint8_t>& states,
           const Given<uint32_t>& keep, const Given<uint32_t>& accept, const Given<int32_t>& alias,
           const Given<int32_t>& ids, const Given<int64_t>& ends, int64_t begin, int64_t end,
           int window, int negative, bool cbow, uint64_t seed, int64_t words_done, double lr,
           double lr_slope, double min_lr, bool single_thread,
           const Vector<int64_t>& sentences_done) {
    const std::size_t words = input.shape(0), dim = input.shape(1);
    check(output.shape(0) == words && output.shape(1) == dim && words > 0,
          "input and output must be of one shape");
    check(states.size() == words * sizeof(RowState), "states must be one per word");
    check(reinterpret_cast<std::uintptr_t>(states.data()) % alignof(RowState) == 0,
          "states must be aligned to 4 bytes");
    check(keep.size() == words && accept.size() == words && alias.size() == words,
          "keep, accept and alias must be one per word");
    check(window >= 1 && window <= (1 << 16) && negative >= 0 && negative <= (1 << 16),
          "window and negative are out of range");
    check(0 <= begin && begin < end && end <= static_cast<int64_t>(ends.size()),
          "begin and end must be sentences of the text");
    check(sentences_done.size() == 1, "sentences_done must be one number");

    // Copies, which no other thread changes once they are checked.
    const int64_t first = begin > 0 ? ends.data()[begin - 1] : 0;
    std::vector<int64_t> own_ends(ends.data() + begin, ends.data() + end);
    check(0 <= first && first <= own_ends[0] &&
              own_ends.back() <= static_cast<int64_t>(ids.size()) &&
              std::is_sorted(own_ends.begin(), own_ends.end()),
          "ends must ascend within the text");
    const std::vector<int32_t> own_ids(ids.data() + first, ids.data() + own_ends.back());
    for (int64_t& at : own_ends) at -= first;
    check(std::all_of(own_ids.begin(), own_ids.end(),
                      [&](int32_t id) { return id >= 0 && id < static_cast<int64_t>(words); }),
          "ids must be of the words");

    const WordPairs pairs{input.data(),
                          output.data(),
                          reinterpret_cast<RowState*>(states.data()),
                          static_cast<int64_t>(words),
                          static_cast<int64_t>(dim),
                          keep.data(),
                          accept.data(),
                          alias.data(),
                          window,
                          negative,
                          cbow,
                          seed};
    const Passage text{own_ids.data(), own_ends.data(), end - begin,  words_done + first, lr,
                       lr_slope,       min_lr,          single_thread};
    {
        const WithoutGil unlocked;
        kernels().train_pairs(pairs, text);
    }
    // Counted here: an interrupt comes to Python's notice right after this, before it could count.
    *sentences_done.data() += end - begin;
}

}  // namespace

void bind_word2vec(nb::module_& m) {
    using namespace nb::literals;
    m.def("train_word2vec", &train, nb::kw_only(), "input"_a, "output"_a, "states"_a, "keep"_a,
          "accept"_a, "alias"_a, "ids"_a, "ends"_a, "begin"_a, "end"_a, "window"_a, "negative"_a,
          "cbow"_a, "seed"_a, "words_done"_a, "lr"_a, "lr_slope"_a, "min_lr"_a, "single_thread"_a,
          "sentences_done"_a,
          "Train word2vec on sentences begin..end of a text and add their number to\n"
          "sentences_done.\n\n"
          "input and output are (V, dim), states the bytes of (V,) row states; keep, accept and\n"
          "alias (V,) say how words are drawn, see native/word2vec/word2vec.hpp. Sentence s is\n"
          "ids[ends[s - 1]:ends[s]]; words_done counts the words of earlier passes.");
}

}  // namespace rowwise
