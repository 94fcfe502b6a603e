// What the kernels share: working memory, asking for rows ahead, reading a run of rows.
#pragma once
#include "kernels.hpp"

namespace rowwise {
namespace ROWWISE_ISA {  // one copy per instruction set

constexpr int64_t kAhead = 3;  // rows prefetched ahead; measured: 2 to 4 alike, 12 slower
constexpr int64_t kRowsPerTask = 512;

// Working memory of one task. Not a std::vector: its code would be shared between the copies of
// this file, and an old processor could be handed a new one's instructions.
template <class T>
struct Scratch {
    T* data;
    explicit Scratch(int64_t count) : data(new T[count]) {}
    ~Scratch() { delete[] data; }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
};

constexpr int64_t kLine = 16;  // floats of a cache line
// The head of a wide row is enough: the processor's own prefetcher sees the rest coming.
constexpr int64_t kHead = 128;

template <bool Write>
inline void prefetch_row(const float* row, int64_t dim) {
    const int64_t floats = dim < kHead ? dim : kHead;
    for (int64_t d = 0; d < floats; d += kLine) __builtin_prefetch(row + d, Write);
}

// Calls work(d) for 0 <= d < dim, and ask(d) before each line: lines of rows ahead, asked for one
// by one between arithmetic, come while it goes on; asked for all at once they would hold it up.
template <class Ask, class Work>
inline void by_lines(int64_t dim, Ask&& ask, Work&& work) {
    int64_t line = 0;
    for (; line + kLine <= dim; line += kLine) {
        if (line < kHead) ask(line);
#pragma GCC ivdep
        for (int64_t d = line; d < line + kLine; ++d) work(d);
    }
    if (line < dim && line < kHead) ask(line);
    for (; line < dim; ++line) work(line);
}

// rows (end - begin,) <- where the present values of rows ids[begin..end) of the n are: in the
// table itself, or in scratch (end - begin, dim), which this thread alone writes.
void read_rows(const TableView&, const Rule&, const Clock&, const int64_t* ids, int64_t n,
               int64_t begin, int64_t end, float* scratch, const float** rows);

// <a, b>, in sixteen partial sums: the same bits for any width of vector instructions.
inline float dot(const float* __restrict a, const float* __restrict b, int64_t dim) {
    constexpr int kLanes = 16;
    float lane[kLanes] = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes)
        for (int j = 0; j < kLanes; ++j) lane[j] += a[d + j] * b[d + j];
    for (int j = 0; d < dim; ++d, ++j) lane[j] += a[d] * b[d];
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
    return lane[0];
}

constexpr int64_t kBlock = 64;  // gradients of one id that are summed before the next such sum

constexpr int64_t kFarAhead = 8;  // of rows that little is computed for on the way

// Asks for the gradient of the plan's entry that comes kFarAhead after entry p.
inline void ask_gradient(const Plan& plan, int64_t p, int64_t dim, const float* gradients) {
    if (p + kFarAhead < plan.entries())
        prefetch_row<false>(gradients + int64_t{plan.sources[p + kFarAhead]} * dim, dim);
}

// sum (dim,) <- the sum of entries first..last of the plan, in their order, from the first on.
inline void sum_block(const Plan& plan, uint32_t first, uint32_t last, int64_t dim,
                      const float* gradients, float* __restrict sum) {
    for (uint32_t p = first; p < last; ++p) {
        ask_gradient(plan, p, dim, gradients);
        const float* __restrict g = gradients + int64_t{plan.sources[p]} * dim;
        const float weight = plan.weights.size ? plan.weights[p] : 1.0f;
        if (p == first)
            for (int64_t d = 0; d < dim; ++d) sum[d] = weight * g[d];
        else
            for (int64_t d = 0; d < dim; ++d) sum[d] += weight * g[d];
    }
}

// sum (dim,) <- the sum over first..last: sums of kBlock entries in order, then these sums in
// order. So n gradients are rounded 64 + n / 64 times at most, and a GPU can share out the blocks
// for the same bits. sum_one(begin, end, out) writes the sum of one block to out (dim,).
template <class SumOne>
inline void sum_in_blocks(int64_t first, int64_t last, int64_t dim, float* __restrict sum,
                          SumOne&& sum_one) {
    sum_one(first, last - first > kBlock ? first + kBlock : last, sum);
    if (last - first <= kBlock) return;
    const Scratch<float> block(dim);
    for (int64_t p = first + kBlock; p < last; p += kBlock) {
        sum_one(p, p + kBlock < last ? p + kBlock : last, block.data);
        const float* __restrict add = block.data;
        for (int64_t d = 0; d < dim; ++d) sum[d] += add[d];
    }
}

// The same of more than kBlock gradients, apart: the usual case stays short.
void sum_many(const Plan& plan, int64_t first, int64_t last, int64_t dim, const float* gradients,
              float* sum);

// sum (dim,) <- the sum of the gradients of the plan's id number i.
inline void sum_of(const Plan& plan, int64_t i, int64_t dim, const float* gradients,
                   float* __restrict sum) {
    const uint32_t first = plan.start[i], last = plan.start[i + 1];
    if (last - first <= kBlock)
        sum_block(plan, first, last, dim, gradients, sum);
    else
        sum_many(plan, first, last, dim, gradients, sum);
}

// The pooled kernels, described in kernels.hpp.
void gather_bags(const TableView&, const Rule&, const Clock&, const Bags&, float* out);
void gather_bags_max(const TableView&, const Rule&, const Clock&, const Bags&, float* out,
                     int64_t* argmax);
void bag_weight_gradient(const TableView&, const Rule&, const Clock&, const Bags&,
                         const float* gradients, float* out);
bool sum_gradients(const Plan&, int64_t dim, const float* gradients, float* out);
void gather_bags_max_gradient(const Plan&, const uint32_t* bag_of, int64_t dim,
                              const int64_t* argmax, const float* gradients, float* out);
void train_pairs(const WordPairs&, const Passage&);

}  // namespace ROWWISE_ISA
}  // namespace rowwise
