// Bags of rows reduced to one vector each, forward and back. Rows are summed where they lie, or a
// few at a time in the first-level cache; an array (ids, dim) is never formed.
#include <atomic>
#include <cstring>

#include "rows.hpp"
#include "threads.hpp"

namespace rowwise {
namespace ROWWISE_ISA {

namespace {

// Bags that hold about as many rows as a task should.
int64_t bags_per_task(const Bags& bags) {
    const int64_t rows_per_bag = bags.n / (bags.count > 0 ? bags.count : 1) + 1;
    const int64_t count = kRowsPerTask / rows_per_bag;
    return count > 0 ? count : 1;
}

// Calls take(bag, position, row's present value (dim,)) for all ids of bags begin..end, in order.
template <class Take>
void each_row(const TableView& table, const Rule& rule, const Clock& clock, const Bags& bags,
              int64_t begin, int64_t end, Take&& take) {
    constexpr int64_t kTile = 4;  // few, for the rows asked for to come just ahead of their use
    const int64_t last = bags.offsets[end];
    if (clock.now() == 0 && table.storage == Storage::float32) {  // every row lies there as it is
        int64_t bag = begin;
        for (int64_t i = bags.offsets[begin]; i < last; ++i) {
            if (i + kFarAhead < bags.n)
                prefetch_row<false>(table.weights + bags.ids[i + kFarAhead] * table.dim, table.dim);
            while (i >= bags.offsets[bag + 1]) ++bag;
            take(bag, i, table.weights + bags.ids[i] * table.dim);
        }
        return;
    }
    const Scratch<float> scratch(kTile * table.dim);
    const float* rows[kTile];
    int64_t bag = begin;
    for (int64_t from = bags.offsets[begin]; from < last; from += kTile) {
        const int64_t to = from + kTile < last ? from + kTile : last;
        read_rows(table, rule, clock, bags.ids, bags.n, from, to, scratch.data, rows);
        for (int64_t i = from; i < to; ++i) {
            while (i >= bags.offsets[bag + 1]) ++bag;
            take(bag, i, rows[i - from]);
        }
    }
}

}  // namespace

void gather_bags(const TableView& table, const Rule& rule, const Clock& clock, const Bags& bags,
                 float* out) {
    const int64_t dim = table.dim;
    parallel(bags.count, bags_per_task(bags), [&](int64_t begin, int64_t end) {
        std::memset(out + begin * dim, 0, (end - begin) * dim * sizeof(float));
        each_row(table, rule, clock, bags, begin, end,
                 [&](int64_t bag, int64_t i, const float* __restrict value) {
                     const float weight = bags.weights ? bags.weights[i] : 1.0f;
                     float* __restrict sum = out + bag * dim;
                     for (int64_t d = 0; d < dim; ++d) sum[d] += weight * value[d];
                 });
    });
}

void gather_bags_max(const TableView& table, const Rule& rule, const Clock& clock, const Bags& bags,
                     float* out, int64_t* argmax) {
    const int64_t dim = table.dim;
    parallel(bags.count, bags_per_task(bags), [&](int64_t begin, int64_t end) {
        for (int64_t d = begin * dim; d < end * dim; ++d) {
            out[d] = 0;
            argmax[d] = -1;
        }
        each_row(table, rule, clock, bags, begin, end,
                 [&](int64_t bag, int64_t i, const float* __restrict value) {
                     const bool first = i == bags.offsets[bag];
                     float* __restrict best = out + bag * dim;
                     int64_t* __restrict at = argmax + bag * dim;
                     for (int64_t d = 0; d < dim; ++d) {
                         const bool better = first | (value[d] > best[d]) | (value[d] != value[d]);
                         best[d] = better ? value[d] : best[d];
                         at[d] = better ? i : at[d];
                     }
                 });
    });
}

void bag_weight_gradient(const TableView& table, const Rule& rule, const Clock& clock,
                         const Bags& bags, const float* gradients, float* out) {
    parallel(bags.count, bags_per_task(bags), [&](int64_t begin, int64_t end) {
        each_row(table, rule, clock, bags, begin, end,
                 [&](int64_t bag, int64_t i, const float* value) {
                     out[i] = dot(gradients + bag * table.dim, value, table.dim);
                 });
    });
}

void sum_many(const Plan& plan, int64_t first, int64_t last, int64_t dim, const float* gradients,
              float* sum) {
    sum_in_blocks(first, last, dim, sum, [&](int64_t begin, int64_t end, float* out) {
        sum_block(plan, static_cast<uint32_t>(begin), static_cast<uint32_t>(end), dim, gradients,
                  out);
    });
}

bool sum_gradients(const Plan& plan, int64_t dim, const float* gradients, float* out) {
    std::atomic<bool> finite{true};
    parallel(plan.distinct(), kRowsPerTask, [&](int64_t begin, int64_t end) {
        bool clean = true;
        for (int64_t i = begin; i < end; ++i) {
            float* sum = out + i * dim;
            sum_of(plan, i, dim, gradients, sum);
            for (int64_t d = 0; d < dim; ++d) clean &= sum[d] - sum[d] == 0.0f;  // or it is NaN
        }
        if (!clean) finite = false;
    });
    return finite;
}

void gather_bags_max_gradient(const Plan& plan, const uint32_t* bag_of, int64_t dim,
                              const int64_t* argmax, const float* gradients, float* out) {
    const auto sum_block = [&](int64_t first, int64_t last, float* __restrict sum) {
        for (int64_t d = 0; d < dim; ++d) sum[d] = 0;
        for (int64_t p = first; p < last; ++p) {
            const uint32_t position = plan.sources[p];
            const int64_t* __restrict at = argmax + int64_t{bag_of[position]} * dim;
            const float* __restrict g = gradients + int64_t{bag_of[position]} * dim;
            for (int64_t d = 0; d < dim; ++d) sum[d] += at[d] == position ? g[d] : 0.0f;
        }
    };
    parallel(plan.distinct(), kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            sum_in_blocks(plan.start[i], plan.start[i + 1], dim, out + i * dim, sum_block);
    });
}

}  // namespace ROWWISE_ISA
}  // namespace rowwise
