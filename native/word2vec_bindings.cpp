// The binding of word2vec's training: tables and encoded text in, the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>

#include "kernels.hpp"
#include "word2vec.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace rowwise {
namespace {

using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Count = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Given = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

void train(const Matrix& input, const Matrix& output, const Bytes& states,
           const Given<uint32_t>& keep, const Given<uint32_t>& accept, const Given<int32_t>& alias,
           const Given<int32_t>& ids, const Given<int64_t>& ends, int64_t begin, int64_t end,
           int window, int negative, bool cbow, uint64_t seed, int64_t read, double rate,
           double slope, double least, bool alone, const Count& done) {
    const std::size_t words = input.shape(0), dim = input.shape(1);
    check(output.shape(0) == words && output.shape(1) == dim && words > 0,
          "input and output must be of one shape");
    check(states.size() == words * sizeof(RowState), "states must be one per word");
    check(keep.size() == words && accept.size() == words && alias.size() == words,
          "keep, accept and alias must be one per word");
    check(window >= 1 && window <= (1 << 16) && negative >= 0 && negative <= (1 << 16),
          "window and negative are out of range");
    check(0 <= begin && begin < end && end <= static_cast<int64_t>(ends.size()),
          "begin and end must be sentences of the text");

    const WordPairs pairs{input.data(), output.data(), reinterpret_cast<RowState*>(states.data()),
                          static_cast<int64_t>(words), static_cast<int64_t>(dim), keep.data(),
                          accept.data(), alias.data(), window, negative, cbow, seed};
    const Passage text{ids.data(), ends.data(), begin, end, read, rate, slope, least, alone};
    const int64_t first = begin > 0 ? ends.data()[begin - 1] : 0, last = ends.data()[end - 1];
    check(0 <= first && first <= last && last <= static_cast<int64_t>(ids.size()) &&
              std::is_sorted(ends.data() + begin, ends.data() + end),
          "ends must ascend within the text");
    const auto inside = [&](int32_t id) { return id >= 0 && id < static_cast<int64_t>(words); };
    check(std::all_of(ids.data() + first, ids.data() + last, inside) &&
              std::all_of(alias.data(), alias.data() + words, inside),
          "ids must be of the words");

    check(done.size() == 1, "done must be one number");
    {
        const nb::gil_scoped_release release;
        kernels().train_pairs(pairs, text);
    }
    // Counted here: an interrupt comes to Python's notice right after this, before it could count.
    *done.data() += end - begin;
}

}  // namespace

void bind_word2vec(nb::module_& m) {
    m.def("train_word2vec", &train, nb::kw_only(), "input"_a, "output"_a, "states"_a, "keep"_a,
          "accept"_a, "alias"_a, "ids"_a, "ends"_a, "begin"_a, "end"_a, "window"_a, "negative"_a,
          "cbow"_a, "seed"_a, "read"_a, "rate"_a, "slope"_a, "least"_a, "alone"_a, "done"_a);
}

}  // namespace rowwise
